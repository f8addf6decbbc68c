"""Hiera and SAM 2's mask decoder: what sam2's own networks give, with random weights under the published names."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ragsam.cli import main
from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.bases import BASES
from ragsam.networks.checkpoints import load_sam_weights, read_state_dict
from ragsam.networks.exports import to_sam
from ragsam.networks.hiera import SIZES
from ragsam.networks.imports import import_checkpoint
from ragsam.networks.lora import merged_lora
from ragsam.networks.prompts import INSIDE, OUTSIDE, BoxPrompts, PointPrompts, Prompts
from ragsam.networks.sam import build_sam
from ragsam.prompting.resized_volume import ResizedVolume
from ragsam.runs.base import base_options
from ragsam.transforms.voxel_prompts import SliceBox, SlicePrompts

sam2 = pytest.importorskip("sam2", reason="sam2 is not installed; `make test` installs it")

TOLERANCE = 1e-4
CONFIGS = {"hiera_tiny": "t", "hiera_small": "s", "hiera_base_plus": "b+", "hiera_large": "l"}
WAYS = ("lora", "decoder_lora", "adapter", "frequency")


def sam2_config(size):
    from omegaconf import OmegaConf

    return OmegaConf.load(
        Path(sam2.__file__).parent / "configs" / "sam2.1" / f"sam2.1_hiera_{CONFIGS[size]}.yaml"
    ).model


def randomised(network, seed=0):
    """No tensor of it is zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return network.eval()


@pytest.fixture(scope="module")
def published():
    """SAM 2.1 tiny as its package builds it, for slices of 128 pixels."""
    from hydra.utils import instantiate

    torch.manual_seed(0)
    config = sam2_config("hiera_tiny")
    config.image_size = 128
    return randomised(instantiate(config, _recursive_=True))


@pytest.fixture(scope="module")
def file(published, tmp_path_factory):
    """Its weights in a file as SAM 2.1's are published."""
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": published.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def image():
    smooth = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    slice_ = torch.nn.functional.interpolate(smooth, (128, 128), mode="bicubic").clamp(0, 1)
    return slice_.expand(-1, 3, -1, -1)


def small(file, **options):
    torch.manual_seed(0)
    given = {"backbone": "hiera_tiny", "normalisation": "sam", "image_size": 64, "base": file}
    return Segmenter(2, **{**given, **options})


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=TOLERANCE * expected.abs().max().item(), rtol=0)


def normalised(image):
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (image - mean[:, None, None]) / deviation[:, None, None]


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_all_stages_of_every_size_equal_sam2s(size):
    from hydra.utils import instantiate

    theirs = randomised(instantiate(sam2_config(size).image_encoder, _recursive_=True))
    own = build_sam(size, image_size=64).image_encoder
    state = {key.replace(".mlp.layers.0.", ".mlp.lin1."): value for key, value in theirs.state_dict().items()}
    state = {key.replace(".mlp.layers.1.", ".mlp.lin2."): value for key, value in state.items()}
    own.load_state_dict({**state, "no_mem_embed": torch.zeros(1, 1, 256)})
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = theirs(image)["backbone_fpn"]
    embedding, finer = own.features(image)
    for found, wanted in zip((finer[4], finer[8], embedding), expected, strict=True):
        close(found, wanted)
    for stride, found in own.finer(image).items():
        assert torch.equal(found, finer[stride])


@torch.no_grad()
def test_embedding_equals_sam2s(published, file, image):
    own = Segmenter(1, image_size=128, fusion=None, base=file, backbone="hiera_tiny", normalisation="sam").eval()
    theirs = published.forward_image(normalised(image))["backbone_fpn"][-1] + published.no_mem_embed.view(1, -1, 1, 1)
    close(own.encode(image), theirs)


@pytest.mark.parametrize("kinds", ["points", "box", "mask", "points box mask"])
@torch.no_grad()
def test_prompted_logits_equal_sam2s(published, file, image, kinds):
    """SAM 2's predictor gives a box as two points of kinds 2 and 3, and pads them by a point that is none."""
    own = Segmenter(
        1, image_size=128, fusion=None, prompts="base", base=file, backbone="hiera_tiny", normalisation="sam"
    ).eval()
    points = box = mask = None
    corners, labels = [], []
    if "box" in kinds:
        box = BoxPrompts(*torch.tensor([[20.0], [25.0], [60.0], [75.0]]))
        corners, labels = [[25.0, 20.0], [75.0, 60.0]], [2, 3]
    if "points" in kinds:
        points = PointPrompts(
            torch.tensor([[50.0, 25.0]]), torch.tensor([[60.0, 15.0]]), torch.tensor([[INSIDE, OUTSIDE]])
        )
        corners, labels = [*corners, [60.0, 50.0], [15.0, 25.0]], [*labels, 1, 0]
    if "mask" in kinds:
        mask = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    given = (torch.tensor([corners]), torch.tensor([labels])) if corners else None
    sparse, dense = published.sam_prompt_encoder(points=given, boxes=None, masks=mask)
    fine, coarse, embedding = published.forward_image(normalised(image))["backbone_fpn"]
    masks, quality, _, _ = published.sam_mask_decoder.predict_masks(
        image_embeddings=embedding + published.no_mem_embed.view(1, -1, 1, 1),
        image_pe=published.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine, coarse],
    )
    found = own.decode_prompted(own.embed(image), Prompts(points, box, mask))
    close(found.coarse, masks)
    close(found.quality, quality)


def test_every_key_of_the_file_is_accounted_for(published, file):
    sam = build_sam("hiera_tiny", image_size=128)
    report = load_sam_weights(sam, read_state_dict(file))
    keys = published.state_dict()
    assert len(report.used) + len(report.unused) == len(keys)
    assert not report.resized
    assert not report.dropped
    assert sum(key.startswith("memory_attention.") for key in report.unused) == sum(
        key.startswith("memory_attention.") for key in keys
    )
    for key in report.unused:
        assert not key.startswith(("image_encoder.", "prompt_encoder."))
    assert set(report.used) == set(sam.state_dict())


def test_options_are_found_in_the_file(file):
    assert base_options(file) == {"backbone": "hiera_tiny", "normalisation": "sam", "context_slices": 0}
    assert BASES["sam2.1_hiera_tiny"].options == {**base_options(file), "patch_size": 16}
    assert BASES["medsam2"].backbone == "hiera_tiny"


@pytest.mark.parametrize("peft", [*WAYS, list(WAYS)], ids=str)
@torch.no_grad()
def test_tuning_begins_at_the_base(file, peft):
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    plain = small(file, detail=False, fusion=None).eval()
    tuned = small(file, fusion=None, peft=peft).eval()
    for part in ("mask_tokens", "output_hypernetworks_mlps", "iou_prediction_head"):
        getattr(tuned.sam.mask_decoder, part).load_state_dict(getattr(plain.sam.mask_decoder, part).state_dict())
    assert torch.equal(tuned.encode(image), plain.encode(image))
    assert torch.equal(tuned(image), plain(image))


@pytest.mark.parametrize("checkpointing", [None, "attention", "mlp", "blocks"])
def test_what_is_added_learns_and_the_base_does_not(file, checkpointing):
    network = small(file, peft=list(WAYS), fusion=None, checkpointing=checkpointing).train()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    for name, parameter in network.named_parameters():
        if name.endswith(("updates.q.b.weight", "updates.v.b.weight", "up.weight")):
            torch.nn.init.normal_(parameter, std=0.02)
    network(image).square().mean().backward()
    for name, parameter in network.sam.image_encoder.named_parameters():
        added = any(part in name for part in (".updates.", "_adapter.", "frequency."))
        assert parameter.requires_grad == added, name
        if added:
            assert parameter.grad is not None, name
    assert network.sam.mask_decoder.conv_s0.weight.grad.any()


@torch.no_grad()
def test_merged_updates_give_the_same(file):
    network = small(file, peft="lora", lora={"rank": 4, "targets": ["q", "k", "v", "proj", "mlp"]}, fusion=None).eval()
    for name, parameter in network.named_parameters():
        if name.endswith(".b.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    apart = network(image)
    with merged_lora(network):
        close(network(image), apart)


@torch.no_grad()
def test_an_earlier_encoding_gives_the_same(file):
    network = small(file, fusion=None).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(network(image, embedding=network.encode(image)), network(image))


def test_what_does_not_fit_is_refused_by_its_cause(file, tmp_path):
    with pytest.raises(ValueError, match="image_size 48: a Hiera needs a multiple of 32"):
        Segmenter(1, backbone="hiera_tiny", image_size=48)
    with pytest.raises(ValueError, match="patch_size 8: a Hiera has 16"):
        Segmenter(1, backbone="hiera_tiny", image_size=64, patch_size=8)
    with pytest.raises(InputError, match="a Hiera, as SAM 2 and MedSAM2 have, the network's is a ViT"):
        Segmenter(1, backbone="vit_b", image_size=64, base=file)
    with pytest.raises(InputError, match="unknown keys"):
        Segmenter(1, backbone="hiera_small", image_size=64, base=file)
    state = read_state_dict(file)
    del state["image_encoder.trunk.blocks.11.norm1.weight"]
    torch.save({"model": state}, tmp_path / "cut.pt")
    with pytest.raises(InputError, match="a Hiera of 11 blocks, width 96, is not one of SAM 2's"):
        base_options(tmp_path / "cut.pt")


@torch.no_grad()
def test_a_slice_is_stretched_and_answered_as_by_sam2s_predictor(published, file):
    """A slice of 50 x 80 pixels, and a box in its pixels."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    network, _ = import_checkpoint("sam", file, image_size=128)
    voxels = torch.rand(1, 50, 80, 1, generator=torch.Generator().manual_seed(4))
    found = ResizedVolume(network, voxels).answer(0, SlicePrompts(box=SliceBox(10, 20, 35, 60)))
    predictor = SAM2ImagePredictor(published)
    predictor._bb_feat_sizes = [(32, 32), (16, 16), (8, 8)]  # it has those of 1024 pixels
    predictor.set_image(voxels[0].expand(-1, -1, 3).numpy())
    box = np.array([20, 10, 60, 35])
    expected, _, _ = predictor.predict(box=box, multimask_output=False, return_logits=True)
    close(found.logits, torch.from_numpy(expected)[0])


def test_a_whole_file_is_imported_without_its_memory(published, file):
    network, report = import_checkpoint("sam", file, image_size=64)
    assert network.about["backbone"] == "hiera_tiny"
    assert network.about["normalisation"] == "sam"
    assert not report.missing
    assert len(report.used) + len(report.ignored) == len(published.state_dict())
    assert set(report.ignored.values()) == {"of SAM 2's memory of other frames"}
    with pytest.raises(InputError, match=r"sam2.1_hiera_tiny.pt: its image encoder is a Hiera, .*; import it as sam"):
        import_checkpoint("medsam", file)
    with pytest.raises(InputError, match="a plain SAM has a ViT"):
        to_sam(network)


def test_prompts_are_answered_untuned_by_command(file, tmp_path):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).normal(size=(20, 24, 4)).astype(np.float32), affine),
        tmp_path / "mr.nii.gz",
    )
    prompts = {"mr": [{"object": "left", "box": {"i": [3, 15], "j": [9, 20], "k": [1, 1]}}]}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    words = ["segment", "--base", str(file), "--prompts", str(tmp_path / "prompts.json"), str(tmp_path / "mr.nii.gz")]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    labels = nib.load(tmp_path / "out" / "mr.nii.gz")
    assert labels.shape == (20, 24, 4)
    assert np.array_equal(labels.affine, affine)
