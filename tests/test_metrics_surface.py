"""Surface distances: by hand, against MONAI, and by the laws they obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import gaussian_filter

from ragsam.metrics.surface import assd_mm, diagonal_mm, hd95_mm, nsd, surface, surface_distances

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
    assert hd95_mm(distances) == assd_mm(distances) == 2.0
    assert nsd(distances, 1.9) == 0.0
    assert nsd(distances, 2.0) == 1.0


@pytest.mark.parametrize(("axis", "steps", "expected"), [(0, 3, 3 * 0.7), (1, 2, 2 * 0.7), (2, 1, 5.0), (2, 2, 10.0)])
def test_a_flat_plate_shifted_is_exact_in_mm(axis, steps, expected):
    """A plate one voxel thick across the shift: every point's nearest is straight ahead, at the shift itself."""
    size = [1 if a == axis else 6 for a in range(3)]
    reference = _box((12, 12, 12), start=(3, 3, 3), size=size)
    prediction = np.roll(reference, steps, axis=axis)
    distances = surface_distances(reference, prediction, (0.7, 0.7, 5.0))
    assert hd95_mm(distances) == pytest.approx(expected, abs=1e-12)
    assert assd_mm(distances) == pytest.approx(expected, abs=1e-12)
    assert nsd(distances, expected) == 1.0
    assert nsd(distances, expected - 0.01) == 0.0


def test_percentile_by_hand():
    """Of 20 surface voxels one lies 10 mm off: the 95th percentile is 5 % of the way from the 19th to the 20th."""
    reference, prediction = np.zeros((40, 1, 1), bool), np.zeros((40, 1, 1), bool)
    reference[:19] = True
    prediction[:19] = True
    prediction[28] = True
    distances = surface_distances(reference, prediction, (1.0, 1.0, 1.0))
    assert hd95_mm(distances) == pytest.approx(0.05 * 10.0)
    assert assd_mm(distances) == pytest.approx(10 / 39)
    assert nsd(distances, 1.0) == pytest.approx(38 / 39)


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
        assert hd95_mm(distances) is nsd(distances, 1.0) is assd_mm(distances) is None


def test_bad_arguments_are_refused():
    full = np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="one shape"):
        surface_distances(full, full[:2], (1, 1, 1))
    for spacing in ((1, 1), (1, 1, 0), (1, 1, float("nan"))):
        with pytest.raises(ValueError, match="spacings in mm"):
            surface_distances(full, full, spacing)


def test_diagonal_of_a_three_four_twelve_box():
    assert diagonal_mm((3, 2, 4), (1.0, 2.0, 3.0)) == pytest.approx(13.0)


@pytest.mark.parametrize("seed", range(6))
def test_equal_to_monai_on_random_anisotropic_volumes(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(6, 24, 3))
    spacing = tuple(rng.uniform(0.4, 5.0, 3).tolist())
    # Blobs, cut off by the border; the last seeds are plain noise, the hardest surface there is.
    noise = rng.normal(size=(2, *shape))
    masks = noise > 0.5 if seed > 3 else np.stack([gaussian_filter(n, 2) for n in noise]) > 0.02
    reference, prediction = masks
    assert reference.any()
    assert prediction.any()
    first, second = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))
    options = {"include_background": True, "spacing": spacing}
    distances = surface_distances(reference, prediction, spacing)
    hausdorff = compute_hausdorff_distance(first, second, percentile=95, directed=False, **options).item()
    average = compute_average_surface_distance(first, second, symmetric=True, **options).item()
    assert hd95_mm(distances) == pytest.approx(hausdorff, rel=1e-6, abs=1e-6)
    assert assd_mm(distances) == pytest.approx(average, rel=1e-6, abs=1e-6)
    for tolerance in (0.5, 1.0, 3.0):
        share = compute_surface_dice(first, second, class_thresholds=[tolerance], **options).item()
        assert nsd(distances, tolerance) == pytest.approx(share, abs=1e-6)


@given(MASKS, MASKS, SPACINGS)
@settings(max_examples=60, deadline=None)
def test_symmetric_and_within_range(first, second, spacing):
    one, other = surface_distances(first, second, spacing), surface_distances(second, first, spacing)
    if not first.any() or not second.any():
        return
    for metric in (hd95_mm, assd_mm):
        assert metric(one) == pytest.approx(metric(other))
        assert 0 <= metric(one) <= diagonal_mm(first.shape, spacing)
    assert nsd(one, 1.0) == nsd(other, 1.0)
    assert 0 <= nsd(one, 1.0) <= nsd(one, 2.0) <= nsd(one, 100.0) == 1.0


@given(MASKS, SPACINGS)
@settings(max_examples=30, deadline=None)
def test_identity_is_perfect(mask, spacing):
    distances = surface_distances(mask, mask, spacing)
    if mask.any():
        assert hd95_mm(distances) == assd_mm(distances) == 0.0
        assert nsd(distances, 0.0) == 1.0


@given(MASKS, MASKS, SPACINGS, st.tuples(*[st.integers(0, 3)] * 3))
@settings(max_examples=30, deadline=None)
def test_where_in_the_image_does_not_matter(first, second, spacing, offset):
    """The last digit included: distances come from whole voxel steps."""
    far = [np.pad(mask, [(o, 3 - o) for o in offset]) for mask in (first, second)]
    for near, moved in zip(surface_distances(first, second, spacing), surface_distances(*far, spacing), strict=True):
        np.testing.assert_allclose(moved, near, rtol=0, atol=1e-12)
