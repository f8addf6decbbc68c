"""SAM checkpoints at another size, and our own weights files: whole, damaged and malicious."""

import os
import random
import resource

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_sam_weights, load_weights, read_state_dict, save_weights
from ragsam.networks.sam import build_sam

PER_MASK = ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head")


def segment_anything_sam(image_size=128, patch_size=8, *, heads=6, width=192):
    """A SAM of segment-anything's own parts, of vit_tiny's widths, no tensor of it zero."""
    torch.manual_seed(0)
    grid = image_size // patch_size
    encoder = ImageEncoderViT(
        img_size=image_size, patch_size=patch_size, embed_dim=width, depth=4, num_heads=heads,
        use_rel_pos=True, window_size=14 if grid > 14 else 0, global_attn_indexes=(1, 3),
        norm_layer=lambda size: nn.LayerNorm(size, eps=1e-6),
    )  # fmt: skip
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(grid, grid), input_image_size=(image_size,) * 2, mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=512, num_heads=8)
    sam = Sam(encoder, prompts, MaskDecoder(transformer_dim=256, transformer=transformer))
    for parameter in sam.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return sam.eval()


@pytest.fixture(scope="module")
def large():
    """Grid 16: windows of 14 in two blocks, two global ones."""
    return segment_anything_sam(128)


@pytest.fixture
def state(large):
    return dict(large.state_dict())


@pytest.fixture
def small():
    return build_sam("vit_tiny", image_size=160, num_masks=5)


def tiny_file(folder, suffix):
    """A weights file of some kilobytes."""
    path = folder / f"tiny{suffix}"
    tensors = {f"layer{i}.weight": torch.randn(8, 8) for i in range(3)}
    safetensors.torch.save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    return path


def test_positions_are_resized_bilinearly_and_all_else_is_kept(tmp_path, large, small):
    """From 128 to 160 pixels and from 3 to 5 masks: the global blocks' tables go from 31 to 39 rows."""
    torch.save(large.state_dict(), tmp_path / "sam.pth")
    fresh = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    report = load_sam_weights(small, read_state_dict(tmp_path / "sam.pth"))
    loaded, source = small.state_dict(), large.state_dict()
    tables = [f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (1, 3) for axis in "hw"]
    assert sorted(report.resized) == sorted(["image_encoder.pos_embed", *tables])

    grid = source["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (20, 20), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    assert torch.equal(loaded["image_encoder.pos_embed"], expected)
    for key in tables:
        table = source[key]
        assert table.shape == (31, 32)
        expected = F.interpolate(table[None, None], (39, 32), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(loaded[key], expected, rtol=0, atol=1e-6)

    assert report.dropped
    assert all(key.split(".")[1] in PER_MASK for key in report.dropped)
    for key in loaded:
        if key.startswith("mask_decoder.") and key.split(".")[1] in PER_MASK:
            assert torch.equal(loaded[key], fresh[key]), key
        elif key not in report.resized:
            assert key in report.used
            assert torch.equal(loaded[key], source[key]), key
    assert len(report.used) + len(report.resized) + len(report.dropped) == len(source)
    assert str(report) == f"{len(report.used)} tensors used, 5 resized, {len(report.dropped)} dropped (per mask)"


def test_a_resized_table_by_hand(state):
    """Rows 0, 1, ..., 30 stretched to 39 rows: row i lies at (i + 0.5) * 31 / 39 - 0.5, held within 0 and 30."""
    key = "image_encoder.blocks.1.attn.rel_pos_h"
    state[key] = torch.arange(31.0)[:, None].expand(31, 32)
    sam = build_sam("vit_tiny", image_size=160)
    load_sam_weights(sam, state)
    expected = [min(max((i + 0.5) * 31 / 39 - 0.5, 0), 30) for i in range(39)]
    torch.testing.assert_close(sam.state_dict()[key][:, 7], torch.tensor(expected))


def test_vit_b_at_its_own_1024_pixels_comes_to_64():
    """The real thing: segment-anything's ViT-B, whose global blocks are 2, 5, 8 and 11."""
    torch.manual_seed(0)
    state, sam = sam_model_registry["vit_b"]().state_dict(), build_sam("vit_b", image_size=64, num_masks=13)
    report = load_sam_weights(sam, state)
    tables = [f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (2, 5, 8, 11) for axis in "hw"]
    assert sorted(report.resized) == sorted(["image_encoder.pos_embed", *tables])
    assert len(report.used) + len(report.resized) + len(report.dropped) == len(state)
    loaded = sam.state_dict()
    assert loaded[tables[0]].shape == (7, 64)
    assert all(torch.equal(loaded[key], state[key]) for key in report.used)


def test_a_smaller_grid_without_windows_takes_every_table(state):
    sam = build_sam("vit_tiny", image_size=64, num_masks=5)
    assert len(load_sam_weights(sam, state).resized) == 1 + 2 * 4
    assert sam.state_dict()["image_encoder.blocks.0.attn.rel_pos_w"].shape == (15, 32)


def test_a_patch_kernel_answers_an_even_image_as_before(state):
    """A kernel of 8 x 8 brought to 16 x 16 and to 4 x 4: on a constant image its answer is the same."""
    key = "image_encoder.patch_embed.proj.weight"
    state[key] = torch.randn(192, 3, 1, 1).expand(192, 3, 8, 8)
    for patch_size in (4, 16):
        sam = build_sam("vit_tiny", image_size=64, patch_size=patch_size)
        assert key in load_sam_weights(sam, state).resized
        kernel = sam.state_dict()[key]
        assert kernel.shape[-1] == patch_size
        torch.testing.assert_close(kernel.sum((2, 3)), state[key].sum((2, 3)))


def test_at_the_same_size_and_masks_everything_is_used_and_the_encoder_is_sams_own(tmp_path, large):
    torch.save(large.state_dict(), tmp_path / "sam.pth")
    sam = build_sam("vit_tiny", image_size=128)
    report = load_sam_weights(sam, read_state_dict(tmp_path / "sam.pth"))
    assert sorted(report.used) == sorted(large.state_dict())
    assert not report.resized
    assert not report.dropped
    network = Segmenter(3, image_size=128, base=tmp_path / "sam.pth", lora={"rank": 4}).eval()
    image = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        expected = large.image_encoder(image)
        torch.testing.assert_close(sam.image_encoder(image), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(network.encode(image), expected, rtol=0, atol=1e-4)


def test_without_detail_the_masks_are_those_of_sams_own_decoder(tmp_path, large):
    torch.save(large.state_dict(), tmp_path / "sam.pth")
    network = Segmenter(3, image_size=128, base=tmp_path / "sam.pth", lora={"rank": 4}, detail=False).eval()
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        sparse, dense = large.prompt_encoder(points=None, boxes=None, masks=None)
        masks, _ = large.mask_decoder.predict_masks(
            image_embeddings=large.image_encoder(image),
            image_pe=large.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        assert masks.shape == (1, 4, 64, 64)
        assert masks.std() > 1e-3
        expected = F.interpolate(masks, (128, 128), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-5)


def test_half_precision_checkpoints_are_read(state, small):
    half = {key: tensor.half() for key, tensor in state.items()}
    load_sam_weights(small, half)
    assert small.image_encoder.pos_embed.dtype == torch.float32
    key = "image_encoder.blocks.0.mlp.lin1.weight"
    assert torch.equal(small.state_dict()[key], half[key].float())


def refused(sam, state, words):
    before = {key: tensor.clone() for key, tensor in sam.state_dict().items()}
    with pytest.raises(InputError, match=words):
        load_sam_weights(sam, state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in sam.state_dict().items())


def test_a_missing_key_is_refused(state, small):
    del state["image_encoder.neck.0.weight"]
    refused(small, state, r"0 unknown keys .*1 missing \(image_encoder.neck.0.weight\)")


def test_an_unknown_key_is_refused(state, small):
    state["image_encoder.blocks.0.MLP_Adapter.D_fc1.weight"] = torch.zeros(1)
    refused(small, state, r"1 unknown keys \(image_encoder.blocks.0.MLP_Adapter")


def test_another_backbone_is_refused(state):
    with torch.device("meta"):
        sam = build_sam("vit_b", image_size=128)
    with pytest.raises(InputError, match="check `backbone` against the file"):
        load_sam_weights(sam, state)


def test_a_checkpoint_without_mask_tokens_is_refused(state, small):
    del state["mask_decoder.mask_tokens.weight"]
    refused(small, state, "mask_tokens")


@pytest.mark.parametrize("part", PER_MASK)
def test_with_the_same_masks_a_missing_per_mask_tensor_is_refused(state, part):
    key = next(key for key in state if key.startswith(f"mask_decoder.{part}."))
    del state[key]
    refused(build_sam("vit_tiny", image_size=128), state, "1 missing")


def test_with_the_same_masks_an_unknown_per_mask_tensor_is_refused(state):
    state["mask_decoder.output_hypernetworks_mlps.9.layers.0.weight"] = torch.zeros(1)
    refused(build_sam("vit_tiny", image_size=128), state, "1 unknown")


@pytest.mark.parametrize("options", [{"heads": 3}, {"width": 96}])
def test_the_same_keys_at_another_width_are_refused(small, options):
    refused(small, segment_anything_sam(128, **options).state_dict(), "the network needs")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_both_formats_are_read(tmp_path, suffix):
    state = read_state_dict(tiny_file(tmp_path, suffix))
    assert sorted(state) == ["layer0.weight", "layer1.weight", "layer2.weight"]
    assert state["layer0.weight"].shape == (8, 8)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match="no such weights file"):
        read_state_dict(tmp_path / "sam.pth")
    with pytest.raises(InputError, match="no such"):
        Segmenter(2, image_size=32, base=tmp_path / "sam.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_told_wherever_it_is_cut(tmp_path, suffix):
    path = tiny_file(tmp_path, suffix)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a readable weights file"):
            read_state_dict(path)


def test_an_old_format_file_is_read_and_told_when_truncated(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(8, 8)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_state_dict(path)["a"], torch.ones(8, 8))
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_state_dict(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_never_ends_in_another_error(tmp_path, suffix):
    """Flipped bits in the voids of a file change nothing; where they are noticed, they are told."""
    path, draw, refusals = tiny_file(tmp_path, suffix), random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(300):
        broken = bytearray(whole)
        broken[draw.randrange(min(len(whole), 600))] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        try:
            read_state_dict(path)
        except InputError:
            refusals += 1
    assert refusals > 60


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"hello", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x05K\x01.", os.urandom(400)]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_foreign_file_is_told(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(InputError):
        read_state_dict(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {"epoch": 3}, {"state_dict": {"a": torch.ones(1)}}, {1: torch.ones(1)}, torch.ones(1)]
)
def test_only_a_plain_state_dict_is_taken(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match="not a plain state dict of tensors"):
        read_state_dict(tmp_path / "a.pth")


class Payload:
    """What a pickle runs when it is loaded carelessly: it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_with_code_is_refused_unrun(tmp_path):
    torch.save({"weight": torch.ones(1), "payload": Payload(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(
        InputError, match=r"bad\.pth: not a readable weights file \(it is not of PyTorch, or holds more"
    ):
        read_state_dict(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)
    assert (tmp_path / "ran").exists(), "the payload does nothing: the test showed nothing"


def test_weights_and_metadata_round_trip(tmp_path):
    tensors = {
        "a": torch.randn(3, 4).T,
        "b": torch.randn(2, requires_grad=True),
        "c": torch.ones(2, dtype=torch.float16),
        "d": torch.zeros(0, 3),
    }
    metadata = {"kind": "sam_lora", "rank": 4, "labels": {"Leber ü": 1}, "window": [-125.0, 275.0], "base": None}
    save_weights(tmp_path / "a.safetensors", tensors, metadata)
    loaded, about = load_weights(tmp_path / "a.safetensors")
    assert about == metadata
    assert sorted(loaded) == sorted(tensors)
    for key, tensor in tensors.items():
        assert torch.equal(loaded[key], tensor)
        assert loaded[key].dtype == tensor.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_without_our_metadata_is_refused(tmp_path, metadata):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(InputError, match="import the checkpoint first"):
        load_weights(tmp_path / "a.safetensors")


def test_a_pth_is_not_a_file_of_ours(tmp_path):
    with pytest.raises(InputError, match="import the checkpoint first"):
        load_weights(tiny_file(tmp_path, ".pth"))


def test_a_disk_that_fills_up_is_told_and_leaves_the_old_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, {"a": torch.ones(4)}, {"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            save_weights(path, {"a": torch.ones(4000)}, {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tensors, about = load_weights(path)
    assert torch.equal(tensors["a"], torch.ones(4))
    assert about == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
