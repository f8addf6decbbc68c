"""Intensities to 0-1: by a window in Hounsfield units, or by a volume's own percentiles."""

import pytest
import torch

from ragsam.transforms.intensity import PERCENTILES, scale_intensity


def scaled(image, window=None):
    return scale_intensity(window)({"image": image})["image"]


def test_a_window_by_hand():
    """-125 to 275 HU, as SAMed has it."""
    hounsfield = torch.tensor([-1000.0, -125.0, -25.0, 75.0, 275.0, 3000.0]).reshape(1, 6, 1, 1)
    out = scaled(hounsfield, (-125.0, 275.0)).flatten().tolist()
    assert out == pytest.approx([0.0, 0.0, 0.25, 0.5, 1.0, 1.0])


def test_percentiles_by_hand():
    """Values 0 to 1000: percentiles 0.5 and 99.5 are 5 and 995."""
    assert PERCENTILES == (0.5, 99.5)
    out = scaled(torch.arange(1001.0).reshape(1, 1001, 1, 1)).flatten()
    assert (out[5].item(), out[995].item()) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert out[500].item() == pytest.approx(0.5)
    assert (out.min().item(), out.max().item()) == pytest.approx((0.0, 1.0), abs=1e-6)


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 500.0), (0.01, 0.0), (37.0, -3.0)])
def test_percentiles_forget_scale_and_offset(factor, offset):
    image = torch.randn(1, 12, 12, 6, generator=torch.Generator().manual_seed(0)) * 100 + 300
    torch.testing.assert_close(scaled(image * factor + offset), scaled(image), rtol=0, atol=1e-4)


def test_a_few_glaring_voxels_do_not_darken_the_rest():
    image = torch.rand(1, 20, 20, 10, generator=torch.Generator().manual_seed(0))
    glaring = image.clone()
    glaring[0, 0, 0, :5] = 1e6
    torch.testing.assert_close(scaled(glaring)[0, 1:], scaled(image)[0, 1:], rtol=0, atol=0.01)


@pytest.mark.filterwarnings("ignore:Divide by zero")
@pytest.mark.parametrize("value", [0.0, 7.0, -1000.0])
def test_an_even_volume_stays_finite(value):
    out = scaled(torch.full((1, 4, 4, 4), value))
    assert torch.isfinite(out).all()
    assert 0 <= out.min() <= out.max() <= 1


def test_labels_are_left_alone():
    item = {"image": torch.rand(1, 4, 4, 4), "label": torch.full((1, 4, 4, 4), 13)}
    assert torch.equal(scale_intensity(None)(item)["label"], torch.full((1, 4, 4, 4), 13))
