"""Building SAM at any size: segment-anything's own network, or a small one."""

import pytest
import torch
from segment_anything import sam_model_registry

from ragsam.networks.sam import BACKBONES, build_sam


@pytest.mark.parametrize("backbone", ["vit_b", "vit_l", "vit_h"])
def test_at_sams_own_size_every_tensor_is_sams_own(backbone):
    with torch.device("meta"):  # shapes without memory
        own, theirs = build_sam(backbone, image_size=1024), sam_model_registry[backbone]()
    shapes = {key: tensor.shape for key, tensor in own.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    windows = [block.attn.window for block in own.image_encoder.blocks]
    assert windows == [(block.window_size or 64,) * 2 for block in theirs.image_encoder.blocks]  # of 64 x 64 tokens


@pytest.mark.parametrize(("image_size", "patch_size"), [(32, 4), (32, 8), (64, 16), (48, None), (128, None), (32, 32)])
def test_the_embedding_has_one_vector_a_patch(image_size, patch_size):
    torch.manual_seed(0)
    sam = build_sam("vit_tiny", image_size=image_size, patch_size=patch_size, num_masks=5)
    grid = image_size // (patch_size or BACKBONES["vit_tiny"].patch_size)
    with torch.no_grad():
        embedding = sam.image_encoder(torch.rand(2, 3, image_size, image_size))
    assert embedding.shape == (2, 256, grid, grid)
    assert torch.isfinite(embedding).all()
    assert sam.mask_decoder.mask_tokens.weight.shape == (6, 256)


def test_the_small_sam_has_no_windows_on_a_grid_that_fits_one():
    for image_size, windows in ((104, {(13, 13)}), (112, {(14, 14)}), (120, {(15, 15), (14, 14)})):
        sam = build_sam("vit_tiny", image_size=image_size, patch_size=8)
        assert {block.attn.window for block in sam.image_encoder.blocks} == windows


def test_intensities_are_not_normalised_again():
    sam = build_sam("vit_tiny", image_size=32)
    image = torch.rand(3, 32, 32)
    assert torch.equal(sam.preprocess(image), image)


def test_an_unknown_backbone_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="'vit_x' is unknown; choose one of vit_tiny, vit_t, vit_b, vit_l, vit_h"):
        build_sam("vit_x", image_size=64)


def test_an_image_size_that_patches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="image_size 60 is not a multiple of patch_size 16"):
        build_sam("vit_tiny", image_size=60, patch_size=16)
