"""Voxels of an input's file and the pixels of its slices: there and back, however the file is turned."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from small_study import affine_of, rotation

from ragsam.errors import InputError
from ragsam.transforms import preprocessing
from ragsam.transforms.prompt_windows import Window, windows_around
from ragsam.transforms.voxel_prompts import (
    MASK_LOGIT,
    SliceBox,
    SliceGrid,
    SlicePoint,
    VoxelBox,
    VoxelPoint,
    VoxelPrompts,
    prompts_by_slice,
)

SHAPE = (7, 9, 5)


def turned(order, flips, degrees=(0, 0)):
    """Return an affine whose array axes run along the world axes `order`, some of them the other way, and obliquely."""
    matrix = np.zeros((3, 3))
    for axis, (world, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[world, axis] = (-1 if flip else 1) * (0.8, 1.0, 3.0)[axis]
    affine = np.eye(4)
    affine[:3, :3] = rotation(*degrees) @ matrix
    affine[:3, 3] = (-20, 13, 5)
    return affine


def working(folder, array, affine, **options):
    """Return a volume as the chains prepare it."""
    nib.save(nib.Nifti1Image(array, affine), folder / "volume.nii.gz")
    chain = preprocessing(window=(0, float(array.max())), keys=["image"], **options)
    return chain({"image": str(folder / "volume.nii.gz")})["image"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("volumes")


orders = st.permutations([0, 1, 2])
flips = st.tuples(st.booleans(), st.booleans(), st.booleans())
turns = st.tuples(st.integers(-20, 20), st.integers(-20, 20))


@settings(max_examples=40, deadline=None)
@given(orders, flips, turns, st.integers(0, 2), st.data())
def test_a_voxel_is_found_where_its_value_is(folder, order, flips, degrees, slice_axis, data):
    voxel = tuple(data.draw(st.integers(0, side - 1)) for side in SHAPE)
    array = np.zeros(SHAPE, np.float32)
    array[voxel] = 1
    volume = working(folder, array, turned(order, flips, degrees), slice_axis=slice_axis)
    row, column, number = SliceGrid.of(volume).place(voxel)
    assert np.allclose((row, column, number), torch.nonzero(volume[0].as_tensor())[0].tolist(), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(orders, flips, turns, st.integers(0, 2), st.booleans(), st.data())
def test_a_voxel_comes_back_to_itself(folder, order, flips, degrees, slice_axis, resampled, data):
    voxel = tuple(data.draw(st.floats(-0.5, side - 0.5)) for side in SHAPE)
    spacing = {"spacing_mm": (0.7, 1.3)} if resampled else {}
    volume = working(
        folder, np.ones(SHAPE, np.float32), turned(order, flips, degrees), slice_axis=slice_axis, **spacing
    )
    grid = SliceGrid.of(volume)
    assert grid.file_shape == SHAPE
    assert np.allclose(grid.voxel(grid.place(voxel)), voxel, atol=1e-9)
    assert all(0 <= at <= side - 1 for at, side in zip(grid.pixel(voxel), grid.shape, strict=True))
    moved = np.abs(np.subtract(grid.pixel(voxel), grid.place(voxel)))
    assert (moved <= np.abs(grid.steps) / 2 + 0.5 + 1e-6).all()  # half a voxel, and what resampling leaves of a pixel


@settings(max_examples=25, deadline=None)
@given(orders, flips, st.integers(0, 2), st.data())
def test_resampling_keeps_a_voxel_at_its_place_in_the_world(folder, order, flips, slice_axis, data):
    voxel = tuple(data.draw(st.integers(0, side - 1)) for side in SHAPE)
    affine = turned(order, flips, (12, -7))
    volume = working(folder, np.ones(SHAPE, np.float32), affine, slice_axis=slice_axis, spacing_mm=(0.5, 2.0))
    place = SliceGrid.of(volume).place(voxel)
    assert np.allclose(volume.affine.numpy() @ (*place, 1), affine @ (*voxel, 1), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(orders, flips, turns, st.integers(0, 2))
def test_a_mask_follows_the_image(folder, order, flips, degrees, slice_axis):
    mask = np.random.default_rng(1).random(SHAPE) < 0.3
    mask[0, 0, 0] = True
    volume = working(folder, mask.astype(np.float32), turned(order, flips, degrees), slice_axis=slice_axis)
    assert torch.equal(SliceGrid.of(volume).slices(mask), volume[0].as_tensor() > 0.5)


def test_a_mask_at_another_spacing_is_that_of_the_nearest_voxel(folder):
    mask = np.zeros((4, 2, 1), bool)
    mask[2] = True
    volume = working(folder, np.ones((4, 2, 1), np.float32), np.eye(4), spacing_mm=(0.4, 1.0))
    rows = SliceGrid.of(volume).slices(mask)[:, 0, 0]
    assert torch.nonzero(rows).flatten().tolist() == [4, 5, 6]  # at 1.6, 2.0 and 2.4


def test_flipped_by_hand(folder):
    """x runs from right to left in the file, so voxel i lies at row 6 - i; j and k are as they are."""
    grid = SliceGrid.of(working(folder, np.ones(SHAPE, np.float32), turned((0, 1, 2), (True, False, False))))
    assert np.allclose(grid.place((1, 2, 3)), (5, 2, 3))
    prompts = VoxelPrompts((VoxelPoint(1, 2, 3), VoxelPoint(0, 8, 3, inside=False)), VoxelBox((1, 4), (2, 5), (3, 4)))
    found = prompts_by_slice(grid, prompts, "case: organ")
    assert sorted(found) == [3, 4]
    assert [(round(p.row), round(p.column), p.inside) for p in found[3].points] == [(5, 2, True), (6, 8, False)]
    box = found[4].box
    assert np.allclose((box.top, box.left, box.bottom, box.right), (2, 2, 5, 5))
    assert found[4].points == ()
    assert not found[3].ambiguous


def test_sagittal_slices_have_j_and_k_for_rows_and_columns(folder):
    grid = SliceGrid.of(working(folder, np.ones(SHAPE, np.float32), np.eye(4), slice_axis=0))
    found = prompts_by_slice(grid, VoxelPrompts((VoxelPoint(1, 2, 3),)), "case: organ")
    assert {number: one.points for number, one in found.items()} == {1: (SlicePoint(2, 3),)}
    assert found[1].ambiguous


def test_a_mask_prompts_every_slice_that_it_is_in(folder):
    grid = SliceGrid.of(working(folder, np.ones(SHAPE, np.float32), affine_of()))
    mask = np.zeros(SHAPE, bool)
    mask[2, 3, 1] = mask[4, 4, 3] = True
    found = prompts_by_slice(grid, VoxelPrompts(mask=mask), "case: organ")
    assert sorted(found) == [1, 3]
    expected = torch.full((7, 9), -MASK_LOGIT)
    expected[2, 3] = MASK_LOGIT
    assert torch.equal(found[1].mask, expected)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (VoxelPrompts((VoxelPoint(7, 0, 0),)), r"liver: point: \(i 7, j 0, k 0\) is outside .* i runs from 0 to 6"),
        (VoxelPrompts((VoxelPoint(0, -1, 0),)), r"j runs from 0 to 8"),
        (VoxelPrompts((VoxelPoint(0, 0, float("nan")),)), r"k runs from 0 to 4"),
        (VoxelPrompts(box=VoxelBox((0, 3), (2, 9), (1, 1))), r"liver: box: .* j runs from 0 to 8"),
        (VoxelPrompts(box=VoxelBox((3, 2), (2, 3), (1, 1))), r"i ends at 2, before it begins at 3"),
        (VoxelPrompts(mask=np.ones((9, 7, 5), bool)), r"the mask is \(9, 7, 5\), the volume \(7, 9, 5\)"),
        (VoxelPrompts(mask=np.zeros(SHAPE, bool)), "no prompt"),
        (VoxelPrompts(), "no prompt"),
    ],
)
def test_prompts_that_cannot_be_are_refused(folder, prompts, words):
    grid = SliceGrid.of(working(folder, np.ones(SHAPE, np.float32), np.eye(4)))
    with pytest.raises(InputError, match=words):
        prompts_by_slice(grid, prompts, "img7: liver")


def test_a_volume_without_its_way_back_is_refused():
    with pytest.raises(ValueError, match="carries no affine"):
        SliceGrid.of(torch.zeros(1, 2, 2, 2))
    turned_volume = MetaTensor(torch.zeros(1, 2, 2, 2), affine=torch.eye(4))
    turned_volume.meta["original_affine"] = affine_of(rotation(20, 10))
    with pytest.raises(ValueError, match="only axes may be exchanged"):
        SliceGrid.of(turned_volume)


# Windows


def test_a_small_slice_is_padded_evenly_as_in_training():
    assert windows_around((5, 8), 8, (0, 0, 1, 1)) == [Window(-1, 0, 8)]
    cut = Window(-1, 0, 8).cut(torch.ones(1, 5, 8), outside=-3)
    assert cut[0, :, 0].tolist() == [-3, 1, 1, 1, 1, 1, -3, -3]


def test_a_region_that_fits_stands_in_the_middle_of_one_window():
    assert windows_around((20, 20), 8, (9, 9, 10, 10)) == [Window(6, 6, 8)]
    assert windows_around((20, 20), 8, (0, 18, 1, 19)) == [Window(0, 12, 8)]


sides = st.integers(1, 40)


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(2, 16), st.data())
def test_windows_cover_their_region_and_give_back_what_they_cut(rows, columns, size, data):
    top, bottom = sorted(data.draw(st.floats(0, rows - 1)) for _ in range(2))
    left, right = sorted(data.draw(st.floats(0, columns - 1)) for _ in range(2))
    plane = torch.arange(rows * columns).view(rows, columns)
    seen = torch.zeros(rows, columns, dtype=torch.bool)
    for window in windows_around((rows, columns), size, (top, left, bottom, right)):
        cut = window.cut(plane)
        assert cut.shape == (size, size)
        inner = window.inner(plane.shape)
        assert torch.equal(window.own(cut, plane.shape), plane[inner])
        seen[inner] = True
    assert seen[int(top) : int(np.ceil(bottom)) + 1, int(left) : int(np.ceil(right)) + 1].all()


def test_a_slice_box_is_named_so_that_rows_and_columns_stay_apart():
    assert SliceBox(top=1, left=2, bottom=3, right=4) == SliceBox(1, 2, 3, 4)
    with pytest.raises(TypeError):
        VoxelPoint(1, 2)
