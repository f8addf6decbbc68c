"""The segmenter: what trains, what is kept, and additions that start at exactly nothing."""

import logging

import pytest
import torch
from torch import nn

from ragsam.errors import InputError
from ragsam.networks import Segmenter, Supports
from ragsam.networks.checkpoints import load_weights, save_weights
from ragsam.networks.sam import build_sam

SIZE, CLASSES = 32, 2
#: Parts that no mask depends on: SAM's estimate of its own quality, and prompts that are never given.
UNPROMPTED = (
    "sam.mask_decoder.iou_prediction_head.",
    "sam.prompt_encoder.point_embeddings.",
    "sam.prompt_encoder.not_a_point_embed.",
    "sam.prompt_encoder.mask_downscaling.",
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """SAM state dicts with 3 masks, by patch size."""
    folder, paths = tmp_path_factory.mktemp("bases"), {}
    for patch_size in (8, 16):
        torch.manual_seed(patch_size)
        sam = build_sam("vit_tiny", image_size=SIZE, patch_size=patch_size)
        paths[patch_size] = folder / f"sam{patch_size}.pth"
        torch.save(sam.state_dict(), paths[patch_size])
    return paths


def make(seed=0, **options):
    torch.manual_seed(seed)
    return Segmenter(CLASSES, image_size=SIZE, **{"lora": {"rank": 2}, "fusion": "label_prior", **options}).eval()


def slices(count=2):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def supports(weights):
    generator = torch.Generator().manual_seed(2)
    weights = torch.tensor(weights)
    labels = torch.randint(0, CLASSES + 1, (*weights.shape, SIZE, SIZE), generator=generator)
    return Supports(labels.to(torch.uint8), weights)


def wake_zeros(network):
    """Give every trainable tensor that starts at zero some values, as training would."""
    for parameter in network.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)


@torch.no_grad()
def logits(network, *args, **options):
    return network(slices(), *args, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"detail": False},
        {"patch_size": 4},
        {"patch_size": 16},
        {"patch_size": 16, "detail": False},
        {"lora": None},
    ],
)
def test_logits_have_a_channel_a_class_and_the_slices_size(options):
    out = logits(make(**options))
    assert out.shape == (2, CLASSES + 1, SIZE, SIZE)
    assert torch.isfinite(out).all()
    assert out.std() > 1e-3


@pytest.mark.parametrize(("image_size", "patch_size"), [(48, 8), (64, 16), (128, 8)])
def test_other_image_sizes_work(image_size, patch_size):
    network = Segmenter(CLASSES, image_size=image_size, patch_size=patch_size)
    assert network(torch.rand(1, 3, image_size, image_size)).shape == (1, CLASSES + 1, image_size, image_size)


def test_a_slice_does_not_see_the_rest_of_its_batch():
    network = make()
    with torch.no_grad():
        together, alone = network(slices()), network(slices()[1:])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 31, 32), (1, 3, 64, 64), (1, 3, 32, 16)])
def test_slices_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match="the network needs 32 squared"):
        make()(torch.rand(*shape))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backbone": "vit_x"}, "'vit_x' is unknown"),
        ({"patch_size": 12}, "not a multiple of patch_size 12"),
        ({"patch_size": 2}, "patch_size 2 .*detail"),
        ({"image_size": 36, "patch_size": 12}, "patch_size 12 .*detail"),
        ({"image_size": 36, "patch_size": 6}, "patch_size 6 .*detail"),
        ({"lora": {"rank": 0}}, "rank 0 is not positive"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options, words):
    with pytest.raises(ValueError, match=words):
        Segmenter(CLASSES, **{"image_size": SIZE, **options})


def test_a_patch_size_that_the_detail_branch_cannot_follow_works_without_it():
    network = Segmenter(CLASSES, image_size=36, patch_size=12, detail=False)
    assert network(torch.rand(1, 3, 36, 36)).shape == (1, CLASSES + 1, 36, 36)


def test_without_a_base_everything_trains():
    network = make()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.base_sha256 is None


def test_without_a_base_no_position_table_is_left_at_zero():
    encoder = make().sam.image_encoder
    tables = [encoder.pos_embed] + [t for b in encoder.blocks for t in (b.attn.rel_pos_h, b.attn.rel_pos_w)]
    assert all(0.005 < table.detach().std() < 0.05 for table in tables)


def test_with_a_base_the_log_counts_its_tensors(bases, caplog):
    with caplog.at_level(logging.INFO, logger="ragsam"):
        network = make(base=bases[8])
    assert "tensors used, 0 resized" in caplog.text
    assert len(network.base_sha256) == 64


def test_with_a_base_exactly_the_tuned_parts_train(bases):
    network = make(base=bases[8])
    training = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    lora = {name for name in training if name.startswith("sam.image_encoder.")}
    halves = ("q.a", "q.b", "v.a", "v.b")
    assert lora == {f"sam.image_encoder.blocks.{i}.attn.qkv.updates.{half}.weight" for i in range(4) for half in halves}
    whole = ("sam.prompt_encoder.", "sam.mask_decoder.", "stem.", "detail.", "fusion.")
    expected = {name for name, _ in network.named_parameters() if name.startswith(whole)}
    assert training == expected | lora
    assert all(any(name.startswith(part) for name in training) for part in whole)


@pytest.mark.parametrize("patch_size", [8, 16])
def test_on_pretrained_weights_the_detail_branch_starts_at_exactly_nothing(bases, patch_size):
    options = {"base": bases[patch_size], "patch_size": patch_size}
    plain, detailed = make(detail=False, **options), make(detail=True, **options)
    expected = logits(plain)
    assert torch.equal(logits(detailed), expected)
    wake_zeros(detailed.detail)
    assert not torch.allclose(logits(detailed), expected, atol=1e-3)


@pytest.mark.parametrize("detail", [True, False])
def test_an_untrained_fusion_changes_no_bit(detail):
    network = make(detail=detail)
    plain = logits(network)
    assert torch.equal(logits(network, supports=supports([[0.5, 0.5], [0.9, 0.1]])), plain)
    wake_zeros(network.fusion)
    assert not torch.allclose(logits(network, supports=supports([[0.5, 0.5], [0.9, 0.1]])), plain, atol=1e-4)


@pytest.mark.parametrize("detail", [True, False])
def test_on_pretrained_weights_neither_detail_nor_fusion_changes_a_bit(bases, detail):
    plain = logits(make(base=bases[8], detail=False))
    network = make(base=bases[8], detail=detail)
    assert torch.equal(logits(network, supports=supports([[1.0], [1.0]])), plain)


@pytest.mark.parametrize("detail", [True, False])
def test_with_a_trained_fusion_zero_weights_are_no_supports(detail):
    network = make(detail=detail)
    wake_zeros(network)
    plain = logits(network)
    assert torch.equal(logits(network, supports=supports([[0.0, 0.0], [0.0, 0.0]])), plain)
    mixed = logits(network, supports=supports([[0.0, 0.0], [0.7, 0.3]]))
    assert torch.equal(mixed[0], plain[0])
    assert not torch.allclose(mixed[1], plain[1], atol=1e-4)


@pytest.mark.parametrize("pretrained", [True, False], ids=["base", "scratch"])
@pytest.mark.parametrize("detail", [True, False])
def test_gradients_reach_everything_that_trains_but_what_answers_prompts(bases, pretrained, detail):
    network = make(base=bases[8] if pretrained else None, detail=detail).train()
    wake_zeros(network)
    out = network(slices(), supports=supports([[0.5, 0.5], [0.9, 0.1]]))
    nn.functional.cross_entropy(out, torch.randint(0, CLASSES + 1, (2, SIZE, SIZE))).backward()
    reached = {n for n, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())}
    training = {n for n, p in network.named_parameters() if p.requires_grad}
    assert training - reached == {name for name in training if name.startswith(UNPROMPTED)}
    assert reached <= training


def test_from_exact_zeros_the_gates_open_and_the_vote_is_learnt(bases):
    """The right answer is the neighbours' own: twenty steps bring the loss down."""
    network, neighbours = make(base=bases[8]).train(), supports([[1.0], [1.0]])
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(slices(), supports=neighbours), neighbours.labels[:, 0].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert network.detail.gate.weight.any()
    assert network.fusion.label_prior.convs[-1].weight.any()


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_run_is_kept_and_loaded_whole(tmp_path, bases, pretrained):
    base = bases[8] if pretrained else None
    trained = make(seed=1, base=base)
    wake_zeros(trained)
    path = tmp_path / "model.safetensors"
    save_weights(path, trained.trainable_state(), {"kind": "sam_lora", "base": trained.base_sha256})
    fresh = make(seed=2, base=base)
    neighbours = supports([[0.5, 0.5], [0.9, 0.1]])
    expected = logits(trained, supports=neighbours)
    assert not torch.allclose(logits(fresh, supports=neighbours), expected)
    state, about = load_weights(path)
    fresh.load_trainable_state(state)
    assert torch.equal(logits(fresh, supports=neighbours), expected)
    assert about == {"kind": "sam_lora", "base": trained.base_sha256}


def test_with_a_base_no_weight_of_the_base_encoder_is_kept(bases):
    network = make(base=bases[8])
    kept = network.trainable_state()
    encoder = [name for name in kept if name.startswith("sam.image_encoder.")]
    assert encoder
    assert all(".attn.qkv.updates." in name for name in encoder)
    assert set(kept) == {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_what_is_kept_is_enough_for_whoever_loads_a_state_dict(bases):
    """MONAI's tools load `model.pt` so. Without a base, or with a key of its own missing, it is not enough."""
    trained, fresh = make(seed=1, base=bases[8]), make(seed=2, base=bases[8])
    wake_zeros(trained)
    kept = trained.trainable_state()
    fresh.load_state_dict(kept)
    assert torch.equal(logits(fresh), logits(trained))
    del kept["stem.stages.0.0.weight"]
    for network, state in ((fresh, kept), (make(), make(base=bases[8]).trainable_state())):
        with pytest.raises(RuntimeError, match="Missing key"):
            network.load_state_dict(state)


def test_without_a_base_everything_is_kept_buffers_too():
    network = make()
    assert set(network.trainable_state()) == set(network.state_dict())
    assert "sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in network.trainable_state()


def test_weights_of_another_network_are_refused(bases):
    network = make()
    state = network.trainable_state()
    missing = {name: tensor for name, tensor in state.items() if name != "stem.stages.0.0.weight"}
    for wrong in (missing, {**state, "more": torch.ones(1)}, make(lora={"rank": 3}).trainable_state()):
        with pytest.raises(InputError, match="do not fit the network"):
            network.load_trainable_state(wrong)
    with pytest.raises(InputError, match="do not fit the network"):
        network.load_trainable_state(make(base=bases[8]).trainable_state())


TUNING = {
    "lora": {"lora": {"rank": 2, "targets": ["q", "k", "v", "proj", "mlp"]}},
    "decoder lora": {"decoder_lora": {"rank": 2}},
    "adapter": {"adapter": {"space": True, "mlp": True}},
    "depth": {"adapter": {"depth": True}},
    "frequency": {"frequency": {"rate": 0.25}},
    "all": {"lora": {}, "decoder_lora": {}, "adapter": {"depth": True}, "frequency": {}},
}


@pytest.fixture(params=TUNING)
def tuning(request):
    return {"lora": None, **TUNING[request.param]}


@pytest.mark.parametrize("pretrained", [True, False])
def test_every_way_of_tuning_starts_at_exactly_nothing(bases, tuning, pretrained):
    """Without a base too: the same weights with and without what tunes them."""
    options = {"base": bases[8] if pretrained else None, "detail": pretrained}
    plain, tuned = make(**{**options, "lora": None}), make(**options, **tuning)
    weights = {name.replace(".linear.", "."): tensor for name, tensor in tuned.state_dict().items()}
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    depth = (tuning.get("adapter") or {}).get("depth")
    expected = logits(plain)
    if depth:  # a stack of slices, each repeated three times: the middle one alone
        with torch.no_grad():
            expected = plain(slices()[:, 1:2].expand(-1, 3, -1, -1))
    found = logits(tuned)
    assert torch.equal(found, expected) or (depth and torch.allclose(found, expected, atol=1e-5))
    wake_zeros(tuned)
    assert not torch.allclose(logits(tuned), expected, atol=1e-3)


def test_with_a_base_what_tunes_the_encoder_trains_and_the_rest_of_it_does_not(bases, tuning):
    network = make(base=bases[8], **tuning)
    parts = (".updates.", "_adapter.", ".frequency.")
    for name, parameter in network.sam.image_encoder.named_parameters():
        assert parameter.requires_grad == any(part in f".{name}" for part in parts), name
    for name, parameter in network.sam.mask_decoder.named_parameters():
        frozen = tuning.get("decoder_lora") is not None and name.startswith("transformer.") and ".updates." not in name
        assert parameter.requires_grad != frozen, name
    for part in (network.sam.prompt_encoder, network.stem, network.detail, network.fusion):
        assert all(parameter.requires_grad for parameter in part.parameters())


def test_full_tuning_trains_the_base_too_and_keeps_it_all(bases):
    network = make(base=bases[8], full_tuning=True)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert set(network.trainable_state()) >= {name for name, _ in network.named_parameters()}


def test_a_tuned_run_is_kept_and_loaded_whole(tmp_path, bases, tuning):
    trained = make(seed=1, base=bases[8], **tuning)
    wake_zeros(trained)
    save_weights(tmp_path / "model.safetensors", trained.trainable_state(), trained.about)
    fresh = make(seed=2, base=bases[8], **tuning)
    state, about = load_weights(tmp_path / "model.safetensors")
    fresh.load_trainable_state(state)
    assert torch.equal(logits(fresh), logits(trained))
    assert about["tuning"] == {name: options for name, options in tuning.items() if options is not None}
    assert about["base_sha256"] == trained.base_sha256


def test_with_a_depth_adapter_neighbouring_slices_are_seen(bases):
    """Only the middle slice is segmented; the ones beside it matter, and any odd number of them is taken."""
    network = make(base=bases[8], adapter={"depth": True})
    wake_zeros(network)
    stack = torch.rand(2, 5, SIZE, SIZE)
    other = stack.clone()
    other[:, 0] = 0
    with torch.no_grad():
        assert network(stack).shape == (2, CLASSES + 1, SIZE, SIZE)
        assert network.encode(stack).shape == network.encode(stack[:, 1:4]).shape
        assert not torch.allclose(network(stack), network(other), atol=1e-4)
        torch.testing.assert_close(network(stack)[1:], network(stack[1:]), rtol=0, atol=1e-5)


def test_coarse_training_gives_the_decoders_own_size_while_training_alone():
    network = make(detail=False, coarse_training=True)
    assert network(slices()).shape == (2, CLASSES + 1, SIZE, SIZE)
    coarse = network.train()(slices())
    assert coarse.shape == (2, CLASSES + 1, SIZE // 8 * 4, SIZE // 8 * 4)
    full = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network.eval()(slices()), full, rtol=0, atol=1e-5)


def test_sams_normalisation_is_that_of_its_photographs(bases):
    plain, normalised = (make(base=bases[8], normalisation=name, detail=False) for name in ("unit", "sam"))
    mean, deviation = (
        torch.tensor(v)[:, None, None] / 255 for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    )
    with torch.no_grad():
        torch.testing.assert_close(normalised(slices()), plain((slices() - mean) / deviation), rtol=0, atol=1e-5)


def test_without_a_fusion_there_is_no_retrieval():
    network = make(fusion=None)
    assert torch.equal(logits(network, supports=supports([[1.0], [1.0]])), logits(network))
    assert not any(name.startswith("fusion") for name, _ in network.named_parameters())
