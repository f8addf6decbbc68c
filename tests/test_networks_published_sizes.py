"""Published checkpoints of ViT-B at 256, 512 and 1024 pixels: each gives what a plain reading of its format gives.

The reading computes in float64: at 1024 pixels its own rounding in float32 comes to as much as is allowed.
"""

import copy

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
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom

from ragsam.networks.imports import import_checkpoint

EQUAL = 2e-6  # of the largest number of what is compared

pytestmark = pytest.mark.slow


def samed(base, size, *, decoder=False):
    return samed_file(base, classes=8, rank=4, decoder=decoder), samed_reading, {"image_size": size}


def samed_s(base, size):
    return samed(base, size, decoder=True)


def medical_sam_adapter(base, size):
    def reading(base, file, image):
        own = medical_network(file, size, size=VIT_B)
        return plain_masks(own, own.image_encoder(image))[:, :1]

    return medical_file(base, size=VIT_B), reading, {"thd": False}


def medical_sam_adapter_of_2024(base, size):
    """Of 64 x 64 patches at every image size."""

    def reading(base, file, image):
        own = medical_network_of_2024(file, size, activation=F.gelu, cut_first=True, size=VIT_B)
        return plain_masks(own, own.image_encoder(image))[:, :1]

    answers = {
        "thd": False,
        "image_size": size,
        "normalisation": "unit",
        "activation": "gelu",
        "windows": "before-norm",
    }
    file = medical_file_of_2024(segment_anything_sam(1024, size=VIT_B), size=VIT_B)
    return file, reading, {**answers, "base": None}


def sam_adapter(base, size):
    def reading(base, file, image):
        return sam_adapter_reading(file, image, size=VIT_B)

    return sam_adapter_file(base, size=VIT_B), reading, {"normalisation": "unit"}


def medsam(base, size):
    """The sigmoid is taken before the mask is enlarged; what is compared is the probability."""

    def reading(sam, file, image):
        none = sam.prompt_encoder(points=None, boxes=None, masks=None)
        coarse, _ = sam.mask_decoder.predict_masks(
            sam.image_encoder(image), sam.prompt_encoder.get_dense_pe(), none[0], none[1]
        )
        return F.interpolate(coarse[:, :1].sigmoid(), (size, size), mode="bilinear", align_corners=False)

    return copied(base), reading, {}


def sam(base, size):
    def reading(base, file, image):
        return plain_masks(base, base.image_encoder(image))[:, :1]

    return copied(base), reading, {"normalisation": "unit"}


def doubled(file):
    """The same in float64: a tensor, or a dict of tensors and other things at any depth."""
    if isinstance(file, dict):
        return {key: doubled(value) for key, value in file.items()}
    return file.double() if torch.is_tensor(file) and file.is_floating_point() else file


@pytest.fixture
def in_float64(monkeypatch):
    """Computes a reading in float64; segment-anything's code of positions would be float32 in any case."""
    encode = PositionEmbeddingRandom._pe_encoding

    def exact(reading, base, file, image):
        wide = copy.deepcopy(base).double()
        with monkeypatch.context() as patch:
            patch.setattr(PositionEmbeddingRandom, "_pe_encoding", lambda self, at: encode(self, at.double()))
            torch.set_default_dtype(torch.float64)
            try:
                return reading(wide, doubled(file), image.double())
            finally:
                torch.set_default_dtype(torch.float32)

    return exact


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
def test_vit_b_gives_what_its_format_means(tmp_path, in_float64, name, size):
    kind, make = READINGS[name]
    base = segment_anything_sam(size, size=VIT_B)
    torch.save(base.state_dict(), tmp_path / "sam.pth")
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    file, reading, options = make(base, size)
    expected = in_float64(reading, base, file, image)
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
    assert expected.dtype == torch.float64
    assert error < EQUAL
