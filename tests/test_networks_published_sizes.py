"""Published checkpoints of ViT-B at 256, 512 and 1024 pixels: each gives what a plain reading of its format gives."""

import pytest
import torch
import torch.nn.functional as F
from published_checkpoints import (
    VIT_B,
    copied,
    medical_file,
    medical_file_of_2024,
    medical_network,
    medical_network_of_2024,
    plain_masks,
    sam_adapter_file,
    sam_adapter_reading,
    samed_file,
    samed_reading,
    segment_anything_sam,
)

from ragsam.networks.imports import import_checkpoint

EQUAL = 2e-6  # of the largest number of what is compared
AT_1024 = 3e-6  # float32 noise grows with the size: Medical-SAM-Adapter's of 2023 came to 2.1e-6

pytestmark = pytest.mark.slow


def samed(base, image, *, decoder=False):
    file = samed_file(base, classes=8, rank=4, decoder=decoder)
    return file, samed_reading(base, file, image), {"image_size": image.shape[-1]}


def samed_s(base, image):
    return samed(base, image, decoder=True)


def medical_sam_adapter(base, image):
    file = medical_file(base, size=VIT_B)
    own = medical_network(file, image.shape[-1], size=VIT_B)
    return file, plain_masks(own, own.image_encoder(image))[:, :1], {"thd": False}


def medical_sam_adapter_of_2024(base, image):
    """Of 64 x 64 patches at every image size."""
    file, size = medical_file_of_2024(segment_anything_sam(1024, size=VIT_B), size=VIT_B), image.shape[-1]
    own = medical_network_of_2024(file, size, activation=F.gelu, cut_first=True, size=VIT_B)
    answers = {
        "thd": False,
        "image_size": size,
        "normalisation": "unit",
        "activation": "gelu",
        "windows": "before-norm",
    }
    return file, plain_masks(own, own.image_encoder(image))[:, :1], {**answers, "base": None}


def sam_adapter(base, image):
    file = sam_adapter_file(base, size=VIT_B)
    return file, sam_adapter_reading(file, image, size=VIT_B), {"normalisation": "unit"}


def medsam(base, image):
    """The sigmoid is taken before the mask is enlarged; what is compared is the probability."""
    sam, size = base, image.shape[-1]
    none = sam.prompt_encoder(points=None, boxes=None, masks=None)
    coarse, _ = sam.mask_decoder.predict_masks(
        sam.image_encoder(image), sam.prompt_encoder.get_dense_pe(), none[0], none[1]
    )
    return copied(sam), F.interpolate(coarse[:, :1].sigmoid(), (size, size), mode="bilinear", align_corners=False), {}


def sam(base, image):
    return copied(base), plain_masks(base, base.image_encoder(image))[:, :1], {"normalisation": "unit"}


READINGS = {
    "samed": ("samed", samed),
    "samed_s": ("samed", samed_s),
    "medical-sam-adapter": ("medical-sam-adapter", medical_sam_adapter),
    "medical-sam-adapter of 2024": ("medical-sam-adapter", medical_sam_adapter_of_2024),
    "sam-adapter": ("sam-adapter", sam_adapter),
    "medsam": ("medsam", medsam),
    "sam": ("sam", sam),
}


@pytest.mark.parametrize("size", [256, 512, 1024])
@pytest.mark.parametrize("name", READINGS)
@torch.no_grad()
def test_vit_b_gives_what_its_format_means(tmp_path, name, size):
    kind, reading = READINGS[name]
    base = segment_anything_sam(size, size=VIT_B)
    torch.save(base.state_dict(), tmp_path / "sam.pth")
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    file, expected, options = reading(base, image)
    torch.save(file, tmp_path / "published.pth")
    options = {"base": tmp_path / "sam.pth", **options}
    network, _ = import_checkpoint(kind, tmp_path / "published.pth", **options)
    found = network.eval()(image)
    if expected.shape[1] == 1:
        found = found[:, 1:]
    if name == "medsam":
        found = found.sigmoid()
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"\n{name} at {size}: relative error {error:.2g}, largest number {expected.abs().max():.3g}")
    assert error < (AT_1024 if size == 1024 else EQUAL)
