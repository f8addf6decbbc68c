"""NaN and infinite voxels are filled where the item says so, in the chain as in the arrays."""

import nibabel as nib
import numpy as np
import pytest
import torch

from ragsam.data.datalist import Case
from ragsam.data.volumes import VolumeDataset
from ragsam.errors import InputError
from ragsam.report.views import view_image
from ragsam.transforms import preprocessing
from ragsam.transforms.nonfinite import FillNonfinited, fill_nonfinite

HOLES = np.array([[[1.0, np.nan, 3.0, np.inf, -np.inf, 5.0]]], np.float32)
FILLED = [[[1.0, -7.0, 3.0, -7.0, -7.0, 5.0]]]


def test_every_kind_of_hole_is_filled_and_the_type_kept():
    filled = fill_nonfinite(HOLES, -7)
    assert filled.tolist() == FILLED
    assert filled.dtype == np.float32
    sound = np.arange(3)
    assert fill_nonfinite(sound, -7) is sound


def test_the_transform_fills_by_the_items_own_value_and_drops_it():
    item = FillNonfinited()({"image": torch.as_tensor(HOLES), "fill_nonfinite": -7.0, "case": "c"})
    assert item["image"].tolist() == FILLED
    assert set(item) == {"image", "case"}
    untouched = FillNonfinited()({"image": torch.as_tensor(HOLES)})["image"]
    assert torch.isnan(untouched).sum() == 1


def test_a_volume_with_holes_is_refused_or_filled_as_its_case_says(tmp_path, caplog):
    """A window of -10 to 10 takes 0 to 0.5 and -10 to 0."""
    voxels = np.zeros((4, 4, 3), np.float32)
    voxels[0, 0, 0] = np.nan
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    chain = preprocessing(window=(-10, 10), keys=("image",))
    with pytest.raises(InputError, match="c: 1 voxels are NaN or infinite"):
        VolumeDataset([Case("c", "p", path)], chain)[0]
    image = VolumeDataset([Case("c", "p", path, fill_nonfinite=-10)], chain)[0]["image"]
    assert image[0, 0, 0, 0] == 0
    assert image[0, 1, 1, 1] == 0.5
    assert caplog.messages == ["c: 1 voxels are NaN or infinite; filled with -10"]
    assert view_image(path, "c", fill_nonfinite=-10).array.min() == -10
