"""Surface distances and the NSD: by hand, and by the laws they obey; `test_metrics_agreement.py` has other packages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from ragsam.metrics import nearest
from ragsam.metrics.surface import assd_mm, diagonal_mm, hd95_mm, hd95_pooled_mm, hd_mm, surface, surface_distances
from ragsam.metrics.surface_elements import element_areas_mm2, neighbour_codes, nsd

MASKS = arrays(bool, (4, 3, 4))
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 2.5, 5.0])] * 3)


def _box(shape, *, start, size):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def test_two_voxels_two_millimetres_apart():
    reference, prediction = (
        _box((3, 1, 1), start=(0, 0, 0), size=(1, 1, 1)),
        _box((3, 1, 1), start=(2, 0, 0), size=(1, 1, 1)),
    )
    distances = surface_distances(reference, prediction, (1.0, 1.0, 1.0))
    assert hd95_mm(distances) == hd95_pooled_mm(distances) == hd_mm(distances) == assd_mm(distances) == 2.0
    assert nsd(reference, prediction, (1, 1, 1), 1.0) == 0.5  # the four elements that face each other
    assert nsd(reference, prediction, (1, 1, 1), 2.0) == 1.0


@pytest.mark.parametrize(("axis", "steps", "expected"), [(0, 3, 3 * 0.7), (1, 2, 2 * 0.7), (2, 1, 5.0), (2, 2, 10.0)])
def test_a_flat_plate_shifted_is_exact_in_mm(axis, steps, expected):
    """A plate one voxel thick across the shift: every point's nearest is straight ahead, at the shift itself."""
    size = [1 if a == axis else 6 for a in range(3)]
    reference = _box((12, 12, 12), start=(3, 3, 3), size=size)
    prediction = np.roll(reference, steps, axis=axis)
    distances = surface_distances(reference, prediction, (0.7, 0.7, 5.0))
    assert hd95_mm(distances) == pytest.approx(expected, abs=1e-12)
    assert assd_mm(distances) == pytest.approx(expected, abs=1e-12)
    assert hd_mm(distances) == pytest.approx(expected, abs=1e-12)


def test_percentiles_by_hand():
    """Of 20 surface voxels one lies 10 mm off: the 95th percentile is 5 % of the way from the 19th to the 20th.

    Pooled, 38 of 39 distances are 0: the 95th percentile of them is 0.
    """
    reference, prediction = np.zeros((40, 1, 1), bool), np.zeros((40, 1, 1), bool)
    reference[:19] = True
    prediction[:19] = True
    prediction[28] = True
    distances = surface_distances(reference, prediction, (1.0, 1.0, 1.0))
    assert hd95_mm(distances) == pytest.approx(0.05 * 10.0)
    assert hd95_pooled_mm(distances) == 0.0
    assert hd_mm(distances) == 10.0
    assert assd_mm(distances) == pytest.approx(10 / 39)


def test_nsd_weighs_by_area_not_by_voxels():
    """A voxel has 8 elements of half * |(yz, xz, xy)| / 4 each; two far apart and one shared: by area 2/3 is close.

    The third voxel of the prediction lies alone, 12 mm off; the surfaces are 8 and 16 equal elements.
    """
    reference, prediction = np.zeros((14, 3, 3), bool), np.zeros((14, 3, 3), bool)
    reference[0, 1, 1] = prediction[0, 1, 1] = prediction[12, 1, 1] = True
    spacing = (1.0, 2.0, 3.0)
    single = 0.125 * np.sqrt(6.0**2 + 3.0**2 + 2.0**2)
    areas = element_areas_mm2(spacing)
    assert areas[neighbour_codes(reference)].sum() == pytest.approx(8 * single)
    assert nsd(reference, prediction, spacing, 1.0) == pytest.approx(16 / 24)
    # A flat face is its true area: 4 x 4 voxels across the first axis have 3 x 3 whole elements in each of both faces.
    plate = _box((5, 6, 6), start=(2, 1, 1), size=(1, 4, 4))
    codes = neighbour_codes(plate)
    assert areas[codes[2, 2:-2, 2:-2]] == pytest.approx(6.0)
    assert np.count_nonzero(codes[2, 2:-2, 2:-2]) == 9


def test_a_tolerance_that_is_just_met_but_for_rounding_is_met():
    """0.8 in 32 bits is a little more than 0.8; as surface-distance compares, without allowance, it is beyond."""
    reference = _box((12, 4, 4), start=(1, 1, 1), size=(2, 2, 2))
    spacing = (float(np.float32(0.8)), 1.0, 1.0)
    moved = np.roll(reference, 5, axis=0)
    assert nsd(reference, moved, spacing, 4.0) == 1.0
    assert nsd(reference, moved, spacing, 4.0, rounding_mm=0.0) < 1.0


def test_surface_is_the_mask_minus_its_erosion_and_reaches_the_border():
    cube = _box((5, 5, 5), start=(1, 1, 1), size=(3, 3, 3))
    assert np.count_nonzero(surface(cube)) == 26
    assert not surface(cube)[2, 2, 2]
    assert np.count_nonzero(surface(np.ones((3, 3, 3), bool))) == 26
    assert surface(np.ones((4, 4, 1), bool)).all()


def test_an_empty_mask_has_no_distance():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    for pair in ((empty, full), (full, empty), (empty, empty)):
        distances = surface_distances(*pair, (1, 1, 1))
        assert hd95_mm(distances) is hd95_pooled_mm(distances) is hd_mm(distances) is assd_mm(distances) is None
    assert nsd(empty, full, (1, 1, 1), 1.0) == nsd(full, empty, (1, 1, 1), 1.0) == 0.0
    assert nsd(empty, empty, (1, 1, 1), 1.0) is None


def test_bad_arguments_are_refused():
    full = np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="one shape"):
        surface_distances(full, full[:2], (1, 1, 1))
    for spacing in ((1, 1), (1, 1, 0), (1, 1, float("nan"))):
        with pytest.raises(ValueError, match="spacings in mm"):
            surface_distances(full, full, spacing)
    with pytest.raises(ValueError, match="three axes"):
        nsd(full[0], full[0], (1, 1, 1), 1.0)


def test_diagonal_of_a_three_four_twelve_box():
    assert diagonal_mm((3, 2, 4), (1.0, 2.0, 3.0)) == pytest.approx(13.0)


@given(MASKS, MASKS, SPACINGS)
@settings(max_examples=60, deadline=None)
def test_symmetric_and_within_range(first, second, spacing):
    one, other = surface_distances(first, second, spacing), surface_distances(second, first, spacing)
    if not first.any() or not second.any():
        return
    for metric in (hd95_mm, hd95_pooled_mm, hd_mm, assd_mm):
        assert metric(one) == pytest.approx(metric(other))
        assert 0 <= metric(one) <= hd_mm(one) <= diagonal_mm(first.shape, spacing)
    shares = [nsd(first, second, spacing, tolerance_mm) for tolerance_mm in (1.0, 2.0, 100.0)]
    assert shares[0] == pytest.approx(nsd(second, first, spacing, 1.0), abs=1e-12)
    assert 0 <= shares[0] <= shares[1] <= shares[2] == 1.0


@given(MASKS, SPACINGS)
@settings(max_examples=30, deadline=None)
def test_identity_is_perfect(mask, spacing):
    distances = surface_distances(mask, mask, spacing)
    if mask.any():
        assert hd_mm(distances) == assd_mm(distances) == 0.0
        assert nsd(mask, mask, spacing, 0.0) == 1.0


@given(MASKS, MASKS, SPACINGS, st.tuples(*[st.integers(0, 3)] * 3))
@settings(max_examples=30, deadline=None)
def test_where_in_the_image_does_not_matter(first, second, spacing, offset):
    """The last digit included: distances come from whole voxel steps."""
    far = [np.pad(mask, [(o, 3 - o) for o in offset]) for mask in (first, second)]
    for near, moved in zip(surface_distances(first, second, spacing), surface_distances(*far, spacing), strict=True):
        np.testing.assert_allclose(moved, near, rtol=0, atol=1e-12)


@given(MASKS, MASKS, SPACINGS)
@settings(max_examples=30, deadline=None)
def test_the_order_of_axes_in_memory_does_not_matter(first, second, spacing):
    if not first.any() or not second.any():
        return
    turned = [np.asfortranarray(mask) for mask in (first, second)]
    for one, other in zip(surface_distances(first, second, spacing), surface_distances(*turned, spacing), strict=True):
        np.testing.assert_allclose(np.sort(one), np.sort(other), rtol=0, atol=1e-12)
    assert nsd(first, second, spacing, 1.0) == pytest.approx(nsd(*turned, spacing, 1.0), abs=1e-12)


@pytest.mark.parametrize(("around", "looks", "patience"), [(1, 50, 50), (20, 1, 1), (1000, 1, 0), (1000, 50_000, 50)])
@given(MASKS, MASKS, SPACINGS, st.sampled_from([0.0, 0.6, 1.0, 5.0, np.inf]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nearest_is_the_smallest_of_all_distances(monkeypatch, around, looks, patience, first, second, spacing, limit):
    """Whatever part of it is found by looking around, and whatever by the tree."""
    if not first.any() or not second.any():
        return
    for name, value in (("_AROUND", around), ("_LOOKS", looks), ("_PATIENCE", patience)):
        monkeypatch.setattr(nearest, name, value)
    found = nearest.nearest_both_ways_mm(first, second, np.array(spacing), limit_mm=limit)
    all_mm = cdist(np.argwhere(first) * spacing, np.argwhere(second) * spacing)
    for directed, expected in zip(found, (all_mm.min(axis=1), all_mm.min(axis=0)), strict=True):
        within = expected <= limit + nearest.ROUNDING_MM
        np.testing.assert_allclose(directed[within], expected[within], rtol=0, atol=1e-12)
        assert np.all(directed[~within] > limit)
