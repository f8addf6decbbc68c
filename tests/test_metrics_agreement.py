"""Agreement with medpy, MONAI and surface-distance on random anisotropic volumes.

medpy is GPL-3 and surface-distance a package of the tests alone: neither is imported by ragsam.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from medpy.metric import binary
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance, compute_iou
from monai.metrics import compute_surface_dice as monai_surface_dice
from monai.metrics.utils import get_edge_surface_distance
from scipy.ndimage import gaussian_filter
from surface_distance import (
    compute_robust_hausdorff,
    compute_surface_dice_at_tolerance,
    compute_surface_distances,
    lookup_tables,
)

from ragsam.metrics.overlap import dice, iou
from ragsam.metrics.surface import assd_mm, hd95_mm, hd95_pooled_mm, hd_mm, surface_distances
from ragsam.metrics.surface_elements import element_areas_mm2, element_distances, hd95_area_mm, neighbour_codes, nsd

VOLUMES = 50
# surface-distance calls scipy by names that scipy has moved.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TOLERANCE = 1e-6


def random_pair(seed):
    """Blobs cut off by the border, near each other or far apart; every fifth pair is noise, the hardest surface."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(5, 30, 3))
    spacing = tuple(rng.uniform(0.4, 6.0, 3).tolist())
    noise = rng.normal(size=(2, *shape))
    if seed % 5 == 0:
        masks = noise > rng.uniform(-1, 2)
    else:
        smooth = np.stack([gaussian_filter(n, rng.uniform(0.7, 3)) for n in noise])
        smooth[1] = smooth[seed % 2] + rng.uniform(0, 1) * (smooth[1] - smooth[seed % 2])
        masks = smooth > np.quantile(smooth, rng.uniform(0.3, 0.97))
    for mask in masks:
        mask[tuple(rng.integers(0, n) for n in shape)] = True
    return masks[0], masks[1], spacing


@pytest.mark.parametrize("seed", range(VOLUMES))
def test_dice_and_distances_are_medpys(seed):
    reference, prediction, spacing = random_pair(seed)
    distances = surface_distances(reference, prediction, spacing)
    ours = dice(reference, prediction), hd95_pooled_mm(distances), hd_mm(distances), assd_mm(distances)
    theirs = (
        binary.dc(prediction, reference),
        *(function(prediction, reference, voxelspacing=spacing) for function in (binary.hd95, binary.hd, binary.assd)),
    )
    assert ours == pytest.approx(theirs, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(VOLUMES))
def test_dice_iou_and_distances_are_monais(seed):
    """MONAI keeps distances in 32 bits, so its error is relative, and interpolates its percentile in 32 bits.

    The place between two of thousands of distances is then wrong in the fourth digit, which tells where they lie apart:
    so HD95 is set against the percentile in 64 bits of MONAI's own distances too.
    """
    reference, prediction, spacing = random_pair(seed)
    first, second = (torch.from_numpy(mask)[None, None].double() for mask in (prediction, reference))
    distances = surface_distances(reference, prediction, spacing)
    options = {"include_background": True, "spacing": spacing}
    found = {
        "dice": (dice(reference, prediction), compute_dice(first, second)),
        "iou": (iou(reference, prediction), compute_iou(first, second)),
        "hd": (hd_mm(distances), compute_hausdorff_distance(first, second, **options)),
        "assd": (assd_mm(distances), compute_average_surface_distance(first, second, symmetric=True, **options)),
    }
    for name, (ours, theirs) in found.items():
        assert ours == pytest.approx(theirs.item(), rel=TOLERANCE, abs=TOLERANCE), name
    _, directed, _ = get_edge_surface_distance(first[0, 0], second[0, 0], spacing=spacing, symmetric=True)
    exact = max(np.percentile(one.double().numpy(), 95) for one in directed)
    rounded = compute_hausdorff_distance(first, second, percentile=95, **options).item()
    assert hd95_mm(distances) == pytest.approx(exact, rel=TOLERANCE, abs=TOLERANCE)
    assert hd95_mm(distances) == pytest.approx(rounded, rel=1e-4)


@pytest.mark.parametrize("seed", range(VOLUMES))
def test_nsd_and_hd95_by_area_are_surface_distances(seed):
    reference, prediction, spacing = random_pair(seed)
    theirs = compute_surface_distances(reference, prediction, spacing)
    for tolerance_mm in (0.0, 0.5, 2.0, 7.0):
        share = compute_surface_dice_at_tolerance(theirs, tolerance_mm)
        assert nsd(reference, prediction, spacing, tolerance_mm) == pytest.approx(share, abs=TOLERANCE)
    percentile = compute_robust_hausdorff(theirs, 95)
    assert hd95_area_mm(element_distances(reference, prediction, spacing)) == pytest.approx(percentile, abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(0, VOLUMES, 5))
def test_nsd_is_monais_by_subvoxels(seed):
    reference, prediction, spacing = random_pair(seed)
    first, second = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))
    options = {"include_background": True, "spacing": spacing, "use_subvoxels": True}
    share = monai_surface_dice(first, second, class_thresholds=[2.0], **options).item()
    assert nsd(reference, prediction, spacing, 2.0) == pytest.approx(share, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.8, 5.0), (3.0, 0.9, 1.7)])
def test_the_area_of_all_256_neighbourhoods(spacing):
    """By code: the order of the corners does not matter, since mirrored neighbourhoods have equal areas."""
    theirs = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    ours = element_areas_mm2(spacing)
    for code in range(256):
        corners = kernel & code != 0
        assert ours[neighbour_codes(corners)[1, 1, 1]] == pytest.approx(theirs[code], abs=1e-12)
