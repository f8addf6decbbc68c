"""Volumes checked while they are loaded: the same voxels and the same faults, and one pass over the file."""

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose

from ragsam.data.checks.load_volume import load_volume_checked
from ragsam.data.datalist import Case
from ragsam.data.volumes import VolumeDataset
from ragsam.errors import InputError
from ragsam.io.read_volume import LoadVolumed
from ragsam.transforms.chains import preprocessing

AFFINE = np.diag([1.5, 2.0, 3.0, 1.0])


def write(path, voxels, *, slope=None, inter=0.0):
    image = nib.Nifti1Image(voxels, AFFINE)
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("slope", [None, 0.5])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_voxels_and_header_are_the_files_own(tmp_path, name, slope, dtype):
    voxels = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)
    path = write(tmp_path / name, voxels, slope=slope, inter=-3.0)
    loader = LoadVolumed(["image"], image_only=True)
    usual = loader({"image": str(path)})["image"]
    once = loader({"image": str(path), "loaded": {str(path): load_volume_checked(path, "a")}})
    assert once.keys() == {"image"}
    assert once["image"].dtype == usual.dtype
    assert np.array_equal(once["image"].numpy(), usual.numpy())
    assert once["image"].meta.keys() == usual.meta.keys()
    for key, value in usual.meta.items():
        np.testing.assert_equal(np.asarray(once["image"].meta[key]), np.asarray(value), err_msg=key)


def test_a_file_is_unpacked_once(tmp_path, unpacked):
    voxels = np.random.default_rng(0).integers(0, 1000, (64, 64, 40)).astype(np.int16)
    path = write(tmp_path / "a.nii.gz", voxels)
    dataset = VolumeDataset([Case("a", "a", path)], preprocessing(keys=["image"]))
    assert dataset[0]["image"].shape == (1, 64, 64, 40)
    assert voxels.nbytes <= unpacked[str(path)] < 1.3 * voxels.nbytes


def test_faults_are_raised_and_noted_by_case(tmp_path):
    voxels = np.zeros((4, 4, 4), np.float32)
    voxels[0, 0, 0] = np.nan
    path = write(tmp_path / "a.nii.gz", voxels)
    dataset = VolumeDataset([Case("a", "a", path)], preprocessing(keys=["image"]))
    with pytest.raises(InputError, match="a: 1 voxels are NaN or infinite"):
        dataset[0]
    assert dataset.faults == {"a": "a: 1 voxels are NaN or infinite; export the volume again, or let the datalist fill "
                                   "them (fill_nonfinite)"}  # fmt: skip


def test_voxels_that_are_filled_are_warned_of(tmp_path, caplog):
    voxels = np.ones((4, 4, 4), np.float32)
    voxels[1, 2, 3] = np.inf
    path = write(tmp_path / "a.nii.gz", voxels)
    image = load_volume_checked(path, "a", fill_nonfinite=-5.0)
    load_volume_checked(write(tmp_path / "b.nii", np.ones((2, 2, 2), np.int16)), "b")
    assert caplog.messages == ["a: 1 voxels are NaN or infinite; filled with -5"]
    assert image.dataobj[1, 2, 3] == -5.0


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (preprocessing(keys=["image", "label"]), "Key `label` .*"),
        (Compose(["window"]), "'str' object is not callable"),
        (Compose([str.upper]), ".*'upper'.*"),
    ],
)
def test_a_config_whose_transforms_do_not_fit_is_told(tmp_path, transform, reason):
    path = write(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), np.float32))
    dataset = VolumeDataset([Case("a", "a", path)], transform)
    with pytest.raises(InputError, match=f"^a: the config's preprocessing: {reason}; take that part from a bundle"):
        dataset[0]
