"""Distances between the surfaces of two masks: HD95, normalised surface Dice, average distance.

A surface is the mask minus its erosion by the 6-connected neighbourhood (4-connected in a plane); what lies outside the
array is background, so that a mask touching the border has surface there. Distances run between voxel centres in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

# One nanometre: a distance that equals the tolerance but for rounding is within it.
ROUNDING_MM = 1e-6


class SurfaceDistances(NamedTuple):
    """Distances in mm from each surface voxel of one mask to the nearest surface voxel of the other.

    Both arrays are empty where a mask is empty: there is no distance to nothing.
    """

    reference_to_prediction: NDArray[np.float64]
    prediction_to_reference: NDArray[np.float64]


def surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the surface voxels of a mask, as a mask of the same shape."""
    mask = np.asarray(mask, dtype=bool)
    return mask & ~binary_erosion(mask)


def surface_distances(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Measure both surfaces against each other.

    Args:
        reference, prediction: bool arrays of one shape.
        spacing_mm: one number an axis, mm, array order.

    Raises:
        ValueError: where the shapes differ, or the spacing is not positive or not one number an axis.
    """
    first, second = np.asarray(reference, dtype=bool), np.asarray(prediction, dtype=bool)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"masks of one shape are needed, got {first.shape} and {second.shape}")
    if spacing.shape != (first.ndim,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(f"{first.ndim} positive spacings in mm are needed, got {tuple(spacing.tolist())}")
    nothing = np.empty(0)
    if not first.any() or not second.any():
        return SurfaceDistances(nothing, nothing)
    box = _bounding_box(first | second)
    # The box is tight: beyond it there is background, or the border, and an erosion takes both for background.
    points = np.argwhere(surface(first[box])), np.argwhere(surface(second[box]))
    return SurfaceDistances(_nearest_mm(*points, spacing), _nearest_mm(*reversed(points), spacing))


def hd95_mm(distances: SurfaceDistances) -> float | None:
    """Return the larger of the two directed 95th percentiles (linear interpolation); None where a mask is empty."""
    if not distances.reference_to_prediction.size:
        return None
    return max(float(np.percentile(directed, 95)) for directed in distances)


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float | None:
    """Return the share of both surfaces' voxels within `tolerance_mm` of the other surface; None where a mask is empty.

    Source: Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", 2021; by voxels, not weighted
    by area, as MONAI's compute_surface_dice does by default.
    """
    both = np.concatenate(distances)
    return float(np.count_nonzero(both <= tolerance_mm + ROUNDING_MM)) / both.size if both.size else None


def assd_mm(distances: SurfaceDistances) -> float | None:
    """Return the mean of all distances of both directions, pooled; None where a mask is empty."""
    both = np.concatenate(distances)
    return float(both.mean()) if both.size else None


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Return the image's physical diagonal, from corner to corner of the voxel grid: the penalty for a total miss."""
    return math.sqrt(sum((n * float(s)) ** 2 for n, s in zip(shape, spacing_mm, strict=True)))


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the tight box around a mask that is not empty."""
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)


def _nearest_mm(
    points: NDArray[np.int64], others: NDArray[np.int64], spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each point's distance to the nearest of the others; points are voxel indices, [N, D]."""
    _, nearest = cKDTree(others * spacing, leafsize=32).query(points * spacing)
    # From whole voxel steps, so that the distance does not depend on where in the image it lies.
    return np.sqrt((((points - others[nearest]) * spacing) ** 2).sum(axis=1))
