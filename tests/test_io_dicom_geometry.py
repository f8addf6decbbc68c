"""Slices into volumes, worked out by hand; positions and directions are DICOM's own (LPS, mm)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ragsam.errors import InputError
from ragsam.io.dicom_geometry import stack_slices

AXIAL = (1, 0, 0, 0, 1, 0)


def stacked(positions, *, orientations=AXIAL, spacings=(1, 1), thickness=None):
    count = len(positions)
    orientations, spacings = (np.array(np.broadcast_to(v, (count, np.shape(v)[-1]))) for v in (orientations, spacings))
    return stack_slices(positions, orientations, spacings, thickness, "c1")


def refused(positions, **options):
    with pytest.raises(InputError, match=r"^c1: [^\n]+; [^\n]+$") as told:
        stacked(positions, **options)
    return str(told.value)


def test_two_axial_slices():
    """Rows are 0.5 mm apart and columns 0.25 mm, slices 2 mm: the column index moves by 0.25 mm to the left."""
    order, affine = stacked([(10, 20, 30), (10, 20, 32)], spacings=(0.5, 0.25))
    assert order.tolist() == [0, 1]
    assert affine.tolist() == [[0.25, 0, 0, 10], [0, 0.5, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]]


def test_slices_come_in_any_order():
    order, affine = stacked([(0, 0, 4), (0, 0, 0), (0, 0, 2)])
    assert order.tolist() == [1, 2, 0]
    assert affine[:3, 2:].tolist() == [[0, 0], [0, 0], [2, 0]]


def test_sagittal_slices_are_sorted_along_their_own_normal():
    """Columns run to the back, rows downward; their cross product (0, 1, 0) x (0, 0, -1) points to the right."""
    order, affine = stacked([(5, 0, 9), (1, 0, 9), (3, 0, 9)], orientations=(0, 1, 0, 0, 0, -1), spacings=(0.5, 0.7))
    assert order.tolist() == [0, 2, 1]
    assert affine.tolist() == [[0, 0, -2, 5], [0.7, 0, 0, 0], [0, -0.5, 0, 9], [0, 0, 0, 1]]


def test_oblique_slices():
    """Turned by 30 degrees about x: the normal (0, -1/2, cos 30) takes 3 mm slices 1.5 mm forward."""
    c = np.sqrt(3) / 2
    order, affine = stacked([(0, -1.5, 3 * c), (0, 0, 0)], orientations=(1, 0, 0, 0, c, 0.5))
    assert order.tolist() == [1, 0]
    np.testing.assert_allclose(affine[:3, :3], [[1, 0, 0], [0, c, -1.5], [0, 0.5, 3 * c]], atol=1e-12)


def test_a_single_slice_has_its_thickness():
    order, affine = stacked([(1, 2, 3)], thickness=5.0)
    assert order.tolist() == [0]
    assert affine[:3, 2:].tolist() == [[0, 1], [0, 2], [5, 3]]


@pytest.mark.parametrize("thickness", [None, 0.0, float("nan")])
def test_a_single_slice_of_unknown_thickness_is_refused(thickness):
    assert "a single slice of unknown thickness" in refused([(1, 2, 3)], thickness=thickness)


def test_doubled_slices_are_refused():
    assert "1 of 4 slices are at the position of another slice" in refused([(0, 0, z) for z in (0, 2, 2, 4)])
    phases = [(0, 0, z) for z in (0, 2, 4) for _ in range(2)]
    assert "3 of 6 slices are at the position of another slice" in refused(phases)


def test_missing_slices_are_counted():
    assert "1 slices are missing (they are 2 mm apart, with a gap of 4 mm)" in refused(
        [(0, 0, z) for z in (0, 2, 4, 8, 10)]
    )
    assert "3 slices are missing (they are 2 mm apart, with a gap of 6 mm)" in refused(
        [(0, 0, z) for z in (0, 2, 4, 10, 12, 14, 18)]
    )


@pytest.mark.parametrize("heights", [(0, 2, 4, 7), (0, 1, 3, 4.4), (0, 2, 4.2, 6.4, 8.6, 10.8, 13)])
def test_uneven_spacing_is_refused(heights):
    assert "slices are unevenly spaced" in refused([(0, 0, z) for z in heights])


def test_slow_drift_of_the_spacing_is_refused():
    """No step is 2 % off the usual one, but in the middle a slice would be written 1 mm from where it lies."""
    steps = np.repeat([1.0, 1.019], 100)
    assert "unevenly spaced" in refused([(0, 0, z) for z in np.cumsum(steps)])


@pytest.mark.parametrize("decimals", [2, 3])
def test_rounded_positions_are_even(decimals):
    heights = np.round(np.arange(40) * 0.625, decimals)
    _, affine = stacked([(0, 0, z) for z in heights])
    assert abs(affine[2, 2] - 0.625) < 2e-3


def test_gantry_tilt_is_refused():
    """0.2 mm sideways with every 2 mm: atan(0.1) is 5.7 degrees."""
    assert "gantry tilt of 5.7 degrees" in refused([(0, 0.1 * z, z) for z in (0, 2, 4, 6)])


def test_rounding_is_no_tilt():
    """0.01 mm in 0.5 mm would be more than a degree, but no voxel lies more than 0.02 mm off."""
    _, affine = stacked([(0, 0, 0), (0, 0.01, 0.5), (0, 0.02, 1)])
    assert affine[:3, 2].tolist() == [0, 0, 0.5]


def test_slices_out_of_line_are_refused():
    assert "shifted against each other" in refused([(0, 0, 0), (0, 0, 2), (3, 0, 4), (3, 0, 6)])


def test_several_orientations_and_spacings_are_refused():
    positions = [(0, 0, z) for z in (0, 2, 4)]
    mixed = np.array([AXIAL, AXIAL, (0, 1, 0, 0, 0, -1)])
    assert "several orientations in one series (1 of 3 unlike the first)" in refused(positions, orientations=mixed)
    spacings = np.array([(1, 1), (1, 1), (1, 0.5)])
    assert "several pixel spacings in one series (1 of 3 unlike the first)" in refused(positions, spacings=spacings)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 1, 0, 0), (2, 0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 0)])
def test_directions_that_are_none_are_refused(orientation):
    assert "not perpendicular unit vectors" in refused([(0, 0, 0), (0, 0, 2)], orientations=orientation)


def test_pixels_without_size_are_refused():
    assert "pixel spacing is not above 0" in refused([(0, 0, 0), (0, 0, 2)], spacings=(1, 0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_every_slice_lies_where_its_header_says(seed, count):
    rng = np.random.default_rng(seed)
    row, column, normal = Rotation.random(random_state=seed).as_matrix()
    step, origin, spacing = rng.uniform(0.3, 8), rng.uniform(-500, 500, 3), rng.uniform(0.3, 4, 2)
    positions = rng.permutation(origin + np.outer(np.arange(count) * step, normal))
    order, affine = stacked(positions, orientations=np.concatenate([row, column]), spacings=spacing)
    assert sorted(order) == list(range(count))
    found = np.outer(np.arange(count), affine[:3, 2]) + affine[:3, 3]
    np.testing.assert_allclose(found, positions[order], atol=1e-6)
    np.testing.assert_allclose(affine[:3, 0], row * spacing[1], atol=1e-9)
    np.testing.assert_allclose(affine[:3, 1], column * spacing[0], atol=1e-9)
    assert np.linalg.det(affine) > 0
