"""Slices as the file stores them: for every orientation of it, and everything that follows from where they lie."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch

from ragsam.errors import InputError
from ragsam.inference.ensemble import Turn
from ragsam.inference.test_time_augmentation import TestTimeAugmentation as Augmentation
from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.transforms import layout, postprocessing, preprocessing
from ragsam.transforms.layout import axis_across, orientation_of, runs_down, sides_axis
from ragsam.transforms.mirror import RandMirrord
from ragsam.transforms.voxel_prompts import SliceGrid, VoxelPoint, VoxelPrompts, prompts_by_slice

SHAPE = (3, 4, 5)
ORIENTATIONS = ["".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]


def saved(path, array, codes):
    """Write an array whose axes point to `codes`."""
    target = nib.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    for axis, (world, way) in enumerate(target.astype(int)):
        affine[world, axis] = way
    affine[3, 3] = 1
    affine[:3, 3] = (3, -2, 7)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), path)
    return str(path)


def numbers(kind=np.float32):
    return np.arange(np.prod(SHAPE), dtype=kind).reshape(SHAPE)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_slices_are_those_of_the_array_as_stored(tmp_path, codes):
    """Transposed to z, y, x, as SAMed and MedSAM read it; and what is made of them comes back to the file's grid."""
    path = saved(tmp_path / "a.nii", numbers(), codes)
    item = preprocessing(window=(0, 59), keys=["image"], slice_layout="file")({"image": path})
    array = numbers() / 59
    for z in range(SHAPE[2]):
        np.testing.assert_allclose(item["image"][0, ..., z].numpy(), array.transpose(2, 1, 0)[z], atol=1e-6)
    back = postprocessing()({"pred": torch.round(item["image"].as_tensor() * 59), "image": item["image"]})["pred"]
    np.testing.assert_array_equal(back[0].numpy(), numbers())
    np.testing.assert_allclose(back.affine, nib.load(path).affine, atol=1e-6)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_voxel_is_prompted_in_its_row_and_column(tmp_path, codes):
    path = saved(tmp_path / "a.nii", numbers(), codes)
    volume = preprocessing(window=(0, 59), keys=["image"], slice_layout="file")({"image": path})["image"]
    asked = prompts_by_slice(SliceGrid.of(volume), VoxelPrompts((VoxelPoint(2, 1, 3),)), "x")
    ((number, prompts),) = asked.items()
    assert (prompts.points[0].row, prompts.points[0].column, number) == (1, 2, 3)


def test_a_label_stored_in_other_axes_lies_on_its_image(tmp_path):
    image = saved(tmp_path / "image.nii", numbers(), "LPS")
    label = tmp_path / "label.nii"
    nib.save(nib.as_closest_canonical(nib.load(image)), label)
    item = preprocessing(window=(0, 59), slice_layout="file")({"image": image, "label": str(label)})
    torch.testing.assert_close(item["label"].as_tensor().float() / 59, item["image"].as_tensor().float())


def test_files_of_other_slices_than_axial_ones_are_warned_of_once(tmp_path, caplog):
    layout._warn_of_direction.cache_clear()
    chain = preprocessing(window=(0, 59), keys=["image"], slice_layout="file")
    for codes in ("RAS", "PIR", "PIL", "LIP"):
        chain({"image": saved(tmp_path / "a.nii", numbers(), codes)})
    told = "slice_layout file: a file stores %s slices, and the network sees those; most weights know axial ones"
    assert [record.getMessage() for record in caplog.records] == [told % "sagittal", told % "coronal"]


def test_spacing_is_along_the_files_first_and_second_axis(tmp_path):
    """[x, y] halved along x alone: 3 columns become 5."""
    path = saved(tmp_path / "a.nii", numbers(), "LPS")
    chain = preprocessing(window=(0, 59), keys=["image"], slice_layout="file", spacing_mm=(0.5, 1.0))
    assert tuple(chain({"image": path})["image"].shape) == (1, 4, 5, 5)


def test_where_slices_lie_by_hand():
    assert [sides_axis(codes) for codes in ("RAS", "PLS", "SAR", None)] == [0, 1, None, 0]
    assert [runs_down(codes) for codes in ("RAS", "PLI", "SRP", None)] == [False, True, True, False]
    assert [axis_across(codes) for codes in ("RAS", "PLI", "SRP", "SAL", None)] == [2, 2, 1, 0, 2]
    assert orientation_of(torch.zeros(1, 2, 2, 2)) is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"slice_layout": "yx"}, "slice_layout yx: no such layout; choose one of ras, file"),
        ({"slice_layout": "file", "slice_axis": 0}, "slice_axis 0: slice_layout file takes the file's own slices"),
    ],
)
def test_what_cannot_be_is_told(options, told):
    with pytest.raises(InputError, match=told):
        preprocessing(**options)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAI", "PLS", "SRA", "IPL"])
def test_it_is_the_patient_that_is_mirrored(tmp_path, codes):
    """In training and at test: a volume mirrored from side to side gives its labels mirrored, left and right renamed.

    The network calls what is bright in the left half 1, in the right half 2, by the patient's own sides.
    """
    axis = next(axis for axis, code in enumerate(codes) if code in "LR")
    chain = preprocessing(window=(0, 59), slice_layout="file")
    files = []
    for name, array in (("a", numbers()), ("b", np.flip(numbers(), axis))):
        files.append(saved(tmp_path / f"{name}.nii", array, codes))
    item, other = (chain({"image": path, "label": path}) for path in files)
    slice_of = {key: item[key].as_tensor()[..., 1].float() for key in ("image", "label")}
    sides = sides_axis(orientation_of(item["image"]))
    assert sides is None or (sides == {0: 1, 1: 0}[axis])
    mirror = RandMirrord([(1, 2)], prob=1.0)
    if sides is None:
        with pytest.raises(InputError, match="case7 is stored in sagittal slices; switch it off"):
            mirror({**slice_of, "sides_axis": sides, "case": "case7"})
        with pytest.raises(InputError, match="stored in sagittal slices shows no sides"):
            Augmentation(mirror=True)(torch.zeros(1, 3, 4, 4), lambda slices: slices, sides)
        return
    mirrored = mirror({**slice_of, "sides_axis": sides})
    torch.testing.assert_close(mirrored["image"], other["image"].as_tensor()[..., 1].float())
    left = torch.linspace(0, 1, item["image"].shape[1 + sides]).reshape((-1, 1) if sides == 0 else (1, -1))

    def network(slices):
        bright = slices[:, 1]
        return torch.stack([bright * 0, 9 * bright * left, 9 * bright * (1 - left)], dim=1)

    augmentation = VolumeInferer(8, context_slices=0, mirror=True, left_right=[(1, 2)]).augmentation
    slices = item["image"].as_tensor()[0].permute(2, 0, 1)[:, None].expand(-1, 3, -1, -1).float()
    plain = network(slices).softmax(1)
    swapped = network(slices.flip(sides - 2)).softmax(1).flip(sides - 2)[:, [0, 2, 1]]
    torch.testing.assert_close(augmentation(slices, network, sides).exp(), (plain + swapped) / 2, atol=1e-5, rtol=0)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_one_runs_volume_lies_in_anothers(codes):
    """RAS into any other: a voxel numbered in RAS is found at its number, slab by slab, through axes and flips."""
    ras = torch.arange(60.0).reshape(1, 3, 4, 5)
    target = nib.orientations.axcodes2ornt(codes)
    other = torch.from_numpy(np.ascontiguousarray(nib.apply_orientation(ras[0].numpy(), _inverse(target))))[None]
    turn = Turn.between("RAS", codes)
    mean = torch.zeros_like(other)
    turned = mean.permute(0, *(1 + axis for axis in turn.axes))
    for start in (0, 2, 4):
        where = slice(start, min(start + 2, 5))
        where, part = turn.slab(where, ras[..., where].permute(3, 0, 1, 2), 5)
        turned[..., where] += part.movedim(0, -1)
    assert torch.equal(mean, other)


def _inverse(target):
    return nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target)
