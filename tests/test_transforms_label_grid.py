"""Labels on a resampled grid: in place, and none lost."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.transforms import preprocessing
from ragsam.transforms.label_grid import coverage, resample_labels


def test_coverage_by_hand():
    """Four pixels to two, each of which takes in two; and two to four, which is linear interpolation."""
    assert coverage(2, 4, 2.0, 0.5).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert coverage(3, 2, 0.5, 0.0).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    expected = torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 0.25, 0.5, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(coverage(2, 4, 2.0, 0.0), expected)


@pytest.mark.parametrize(("scale", "origin"), [(1.0, 0.0), (1.7, 0.2), (0.4, 0.0), (3.0, 1.0), (1.0, -5.0)])
def test_every_new_pixel_is_made_of_old_ones(scale, origin):
    weights = coverage(6, 9, scale, origin)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(6).double())


def test_an_unchanged_grid_changes_nothing():
    label = torch.randint(0, 5, (7, 6, 4), generator=torch.Generator().manual_seed(0))
    same = [coverage(side, side, 1.0, 0.0).float() for side in (7, 6)]
    assert torch.equal(resample_labels(label, *same), label)


def test_a_line_of_one_pixel_stays_where_every_second_pixel_is_taken():
    """Nearest neighbour takes rows 0, 2, 4, 6: a line in row 3 would be gone."""
    label = torch.zeros(8, 8, 2, dtype=torch.int64)
    label[3, :, 0] = 1
    half = coverage(4, 8, 2.0, 0.0).float()
    assert not label[::2, ::2].any()
    moved = resample_labels(label, half, half)
    assert (moved[:, :, 0] == 1).any()
    assert set(torch.nonzero(moved[:, :, 0])[:, 0].tolist()) <= {1, 2}
    assert not moved[:, :, 1].any()


def test_a_large_organ_keeps_its_edge():
    """A square of 8 x 8 in 16 x 16 becomes 4 x 4 in 8 x 8, in its place."""
    label = torch.zeros(16, 16, 1, dtype=torch.int64)
    label[4:12, 4:12] = 2
    half = coverage(8, 16, 2.0, 0.5).float()
    expected = torch.zeros(8, 8, 1, dtype=torch.int64)
    expected[2:6, 2:6] = 2
    assert torch.equal(resample_labels(label, half, half), expected)


def test_an_organ_wholly_inside_another_is_not_swallowed():
    label = torch.full((12, 12, 1), 2)
    label[5, 5, 0] = 1
    third = coverage(4, 12, 3.0, 1.0).float()
    moved = resample_labels(label, third, third)
    assert (moved == 1).sum() == 1
    assert (moved == 2).sum() == 15


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**16), st.integers(3, 14), st.integers(3, 14), st.floats(0.4, 4.0))
def test_an_organ_alone_is_in_every_slice_that_it_was_in(seed, rows, columns, scale):
    generator = torch.Generator().manual_seed(seed)
    label = (torch.rand(rows, columns, 3, generator=generator) < 0.05).long() * 4
    grids = [coverage(max(1, round((side - 1) / scale) + 1), side, scale, 0.0).float() for side in (rows, columns)]
    moved = resample_labels(label, *grids)
    assert set(moved.unique().tolist()) <= {0, 4}
    seen = torch.einsum("ih,hwd,jw->ijd", grids[0], label.float(), grids[1]).flatten(0, 1).any(0)
    assert torch.equal(moved.flatten(0, 1).any(0), seen)


def test_label_and_image_lie_on_one_grid(tmp_path):
    """A bright bar and its label are resampled to the same place, in a file that runs from right to left."""
    image = np.zeros((30, 27, 3), np.float32)
    image[8:20, 6:18] = 1
    affine = np.diag([-0.8, 1.3, 2.0, 1.0])
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(image.astype(np.uint8), affine), tmp_path / "label.nii")
    files = {key: str(tmp_path / f"{key}.nii") for key in ("image", "label")}
    item = preprocessing(window=(0, 1), spacing_mm=(1.5, 1.5))(files)
    assert item["image"].shape == item["label"].shape
    torch.testing.assert_close(item["image"].affine, item["label"].affine)
    differ = (item["image"] > 0.5) != (item["label"] > 0.5)
    assert differ.float().mean() < 0.05
    centres = [torch.nonzero(item[key][0].as_tensor() > 0.5).double().mean(0) for key in ("image", "label")]
    torch.testing.assert_close(*centres, atol=0.3, rtol=0)
