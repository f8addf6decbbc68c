"""Networks into published formats and back, to the bit; and weights to begin a training with."""

import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import (
    copied,
    medical_file,
    plain_masks,
    sam_adapter_file,
    samed_file,
    segment_anything_sam,
)
from torch import nn

from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.exports import to_sam, to_samed
from ragsam.networks.imports import import_checkpoint
from ragsam.networks.starting import load_start

SIZE = 64
LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "sam.pth"
    torch.save(segment_anything_sam(SIZE).state_dict(), path)
    return path


def sam_of(base):
    sam = segment_anything_sam(SIZE)
    sam.load_state_dict(torch.load(base, weights_only=True))
    return sam


@pytest.fixture
def brought(base, tmp_path):
    """Return a function that saves a checkpoint and imports it."""

    def call(kind, content, *, base=base, **options):
        torch.save(content, tmp_path / "published.pth")
        return import_checkpoint(kind, tmp_path / "published.pth", base=base, **options)[0].eval()

    return call


def tuned(base, *, classes=3, **options):
    """A network of ours whose every trained tensor has moved."""
    torch.manual_seed(4)
    options = {"detail": False, "fusion": None, "lora": {"rank": 2}, **options}
    network = Segmenter(classes, image_size=SIZE, base=base, **options).eval()
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.05)
    return network


def slices(count=1):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Round trips


@pytest.mark.parametrize("decoder", [False, True], ids=["SAMed", "SAMed_s"])
def test_samed_in_and_out_and_in_again(base, brought, decoder):
    file = samed_file(sam_of(base), classes=3, rank=5, decoder=decoder)
    network = brought("samed", file, image_size=SIZE)
    state, notes = to_samed(network)
    assert same(state, file)
    assert notes == []
    assert same(brought("samed", state, image_size=SIZE).trainable_state(), network.trainable_state())


def test_sam_in_and_out(base, brought):
    file = torch.load(base, weights_only=True)
    network = brought("sam", file, base=None)
    state, _ = to_sam(network)
    assert same(state, file)
    assert same(brought("sam", state, base=None).trainable_state(), network.trainable_state())


@pytest.mark.parametrize("options", [{}, {"decoder_lora": {"rank": 2}}])
def test_a_network_of_ours_comes_back_from_samed(base, brought, options):
    network = tuned(base, **options)
    again = brought("samed", to_samed(network)[0], image_size=SIZE)
    assert same(again.trainable_state(), network.trainable_state())
    with torch.no_grad():
        assert torch.equal(again(slices()), network(slices()))


# To a plain SAM


@pytest.mark.parametrize(
    "options", [{}, {"lora": {"rank": 2, "alpha": 6, "targets": ["k", "proj", "mlp"]}, "decoder_lora": {"rank": 3}}]
)
def test_a_merged_sam_gives_the_same_by_segment_anything(base, options):
    network = tuned(base, **options)
    with torch.no_grad():
        expected = network(slices())
    state, notes = to_sam(network)
    assert notes[0] == "masks: 4 class tokens, background first, where SAM has 4 masks for prompts"
    sam = segment_anything_sam(SIZE, masks=4)
    sam.load_state_dict(state)
    with torch.no_grad():
        masks = plain_masks(sam, sam.image_encoder(slices()))
        torch.testing.assert_close(masks, expected, rtol=0, atol=1e-4)
        assert torch.equal(network(slices()), expected)  # exporting leaves the network as it was


def test_an_exported_sam_is_a_base(base, tmp_path):
    torch.save(to_sam(tuned(base, classes=2))[0], tmp_path / "merged.pth")
    network = Segmenter(5, image_size=SIZE, base=tmp_path / "merged.pth", lora={"rank": 1}, detail=False)
    with torch.no_grad():
        torch.testing.assert_close(
            network.eval().encode(slices()), tuned(base, classes=2).encode(slices()), rtol=0, atol=1e-4
        )


def test_sams_own_masks_go_out_where_the_network_has_them(base):
    network = tuned(base, prompts="trained")
    state, notes = to_sam(network)
    assert "masks: SAM's own for prompts; the class tokens are left out" in notes
    head = network.prompt_head.state_dict()
    assert torch.equal(state["mask_decoder.mask_tokens.weight"], head["mask_tokens.weight"])
    segment_anything_sam(SIZE).load_state_dict(state)


# What a format cannot hold


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": None}, "no LoRA in the encoder"),
        ({"lora": {"targets": ["q", "k", "v"]}}, "LoRA on q, k, v: the format has query and value"),
        ({"lora": {"blocks": [0, 1]}}, r"LoRA in blocks \[0, 1\]: the format has every block"),
        ({"lora": {"rank": 2, "alpha": 4}}, "its updates have the scale 1"),
        ({"decoder_lora": {"rank": 3}}, "ranks 2 and 3 in encoder and decoder"),
        ({"adapter": {}}, "adapter: the format has none"),
        ({"frequency": {}}, "frequency: the format has none"),
        ({"full_tuning": True}, "the whole network was trained"),
        ({"base": None}, "the whole network was trained"),
        ({"normalisation": "sam"}, "SAMed takes slices of 0-1 as they are"),
        ({"prompts": "trained"}, "the format has no masks for prompts"),
        ({"classes": 1, "mask_tokens": 4}, "a token for the background too"),
        ({"detail": True}, "a detail branch that has learnt cannot be left out"),
    ],
)
def test_samed_refuses_with_the_reason(base, options, words):
    with pytest.raises(InputError, match=words):
        to_samed(tuned(**{"base": base, **options}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adapter": {}}, "adapter: a plain SAM has none"),
        ({"frequency": {}}, "frequency: a plain SAM has none"),
        ({"detail": True}, "a detail branch that has learnt cannot be left out"),
        ({"detail": True, "base": None}, "a detail branch that has learnt"),
    ],
)
def test_a_plain_sam_refuses_with_the_reason(base, options, words):
    with pytest.raises(InputError, match=words):
        to_sam(tuned(**{"base": base, **options}))


@pytest.mark.parametrize("export", [to_samed, to_sam])
def test_what_has_no_effect_is_left_out_and_told(base, export):
    network = Segmenter(3, image_size=SIZE, base=base, lora={"rank": 2}).eval()
    assert network.detail.is_idle()
    _, notes = export(network)
    assert notes[0].startswith("fusion left out: what is exported is the network with retrieval switched off")
    assert notes[1] == "detail branch left out: it has no effect yet"


@pytest.mark.parametrize("patch_size", [8, 16])
def test_each_gate_of_the_detail_branch_counts(base, patch_size):
    network = Segmenter(2, image_size=SIZE, patch_size=patch_size, base=base, lora={"rank": 1}).eval()
    inside = [str(patch_size // 2), str(patch_size // 4)]
    gates = [network.detail.gate, *(network.detail.skips[key] for key in inside if key in network.detail.skips)]
    gates += [network.detail.blocks[key].layers[-1] for key in inside if key in network.detail.blocks]
    for gate in gates:
        assert network.detail.is_idle()
        gate.bias.data[0] = 1
        assert not network.detail.is_idle()
        gate.bias.data[0] = 0


# Weights to begin with


def begin(network, source, about=None):
    return load_start(network, source.trainable_state(), {**source.about, **(about or {})}, LABELS)


def test_what_is_added_begins_at_zero_effect(base, brought):
    """LoRA of SAMed's file; a detail branch, a fusion, adapters and frequency prompts are new."""
    source = brought("samed", samed_file(sam_of(base), classes=3, rank=5), image_size=SIZE)
    options = {"lora": {"rank": 5}, "adapter": {"depth": False}, "frequency": {}}
    network = Segmenter(3, image_size=SIZE, base=base, **options).eval()
    report = begin(network, source)
    with torch.no_grad():
        assert torch.equal(network(slices()), source(slices()))
    assert sorted(report.used) == sorted(source.trainable_state())
    assert set(report.missing.values()) == {"not in the weights: starts at zero effect"}
    assert {name.split(".")[0] for name in report.missing} == {"stem", "detail", "fusion", "sam"}
    assert sorted([*report.used, *report.missing]) == sorted(network.trainable_state())


@pytest.mark.parametrize(
    ("classes", "about"),
    [(5, {}), (3, {"labels": ["a", "c", "b"]}), (3, {"preparation": {"labels": ["x", "y", "z"]}})],
)
def test_for_other_classes_what_counts_them_begins_anew(base, classes, about):
    source = tuned(base, fusion="label_prior")
    network = Segmenter(classes, image_size=SIZE, base=base, lora={"rank": 2}, detail=False)
    fresh = {name: tensor.clone() for name, tensor in network.trainable_state().items()}
    report = begin(network, source, about)
    parts = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head", "fusion")
    counted = {name for name in fresh if any(f"{part}." in name for part in parts)}
    assert set(report.missing) == counted
    assert set(report.ignored.values()) == {"other classes than the network's"}
    now, wanted = network.trainable_state(), source.trainable_state()
    assert all(torch.equal(now[name], fresh[name] if name in counted else wanted[name]) for name in now)


@pytest.mark.parametrize(
    "about", [{"labels": list(LABELS)}, {"labels": None}, {"preparation": {"labels": list(LABELS)}}]
)
def test_for_the_same_classes_everything_is_taken(base, about):
    source, network = tuned(base), Segmenter(3, image_size=SIZE, base=base, lora={"rank": 2}, detail=False, fusion=None)
    report = begin(network, source, about)
    assert not report.missing
    assert not report.ignored
    assert same(network.trainable_state(), source.trainable_state())


def test_a_prompt_head_begins_with_sams_own_masks_of_the_weights(base, brought):
    source = brought("medical-sam-adapter", medical_file(sam_of(base)), thd=False)
    options = {"adapter": source.about["tuning"]["adapter"], "prompts": "trained"}
    network = Segmenter(3, image_size=SIZE, base=base, **options)
    begin(network, source)
    head, decoder = network.prompt_head.state_dict(), source.sam.mask_decoder.state_dict()
    assert all(torch.equal(head[name], decoder[name]) for name in head)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": {"rank": 3}}, r"updates.q.a.weight is \(2, 192\), the network needs \(3, 192\)"),
        ({"lora": None}, "updates.q.a.weight has no place in the network"),
        ({"lora": {"rank": 2, "blocks": [0]}}, "has no place in the network"),
        ({"decoder_lora": {"rank": 2}}, "has no place in the network"),
        ({"full_tuning": True}, "the weights lack what the network needs, .*image_encoder"),
        ({"prompts": "trained"}, r"the weights lack what the network needs, .*prompt_head\.mask_tokens"),
        (
            {"base": None},
            "made on different base weights; set `base` to the ones whose SHA-256 starts with [0-9a-f]{12}",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(base, options, words):
    network = Segmenter(3, image_size=SIZE, **{"base": base, "lora": {"rank": 2}, "detail": False, **options})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match=f"^start: .*{words}"):
        begin(network, tuned(base))
    assert same(dict(network.state_dict()), before)


def test_without_a_base_a_detail_branch_is_no_addition(brought):
    source = brought("medsam", copied(segment_anything_sam(SIZE)), base=None)
    network = Segmenter(1, image_size=SIZE, mask_tokens=4)
    with pytest.raises(InputError, match=r"patch_embed\.proj\.weight is"):
        begin(network, source)
    plain = Segmenter(1, image_size=SIZE, mask_tokens=4, detail=False, enlarged="probabilities").eval()
    begin(plain, source)
    with torch.no_grad():
        assert torch.equal(plain(slices()), source(slices()))


def test_a_decoder_of_the_same_names_and_other_arithmetic_is_refused(base):
    options = {"image_size": SIZE, "base": base, "detail": False}
    source, network = Segmenter(3, efficient_decoder="gelu", **options), Segmenter(3, **options)
    with pytest.raises(InputError, match="start: efficient_decoder is gelu in the weights; set its options"):
        begin(network, source)
    with pytest.raises(ValueError, match="efficient_decoder 'tanh': choose one of relu, gelu"):
        Segmenter(3, efficient_decoder="tanh", **options)


def test_frequency_weights_begin_a_training_of_many_classes(base, brought):
    source = brought("sam-adapter", sam_adapter_file(sam_of(base)))
    options = {"image_size": SIZE, "base": base, "normalisation": "sam"}
    with pytest.raises(InputError, match="positional_encoding_gaussian_matrix has no place"):
        begin(Segmenter(3, frequency={}, **options), source)
    network = Segmenter(3, frequency={"as_published": True}, **options).eval()
    begin(network, source)
    with torch.no_grad():
        assert torch.equal(network.encode(slices()), source.encode(slices()))
        assert not F.mse_loss(network.encode(slices()), sam_of(base).image_encoder(slices())).isclose(torch.tensor(0.0))
