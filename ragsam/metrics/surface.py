"""Distances between the surfaces of two masks: Hausdorff, its 95th percentile in both definitions, average distance.

A surface is the mask minus its erosion by the 6 face neighbours; what is outside the array is background, so that a
mask touching the border has surface there. Distances run between voxel centres in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ragsam.metrics.nearest import Floats, nearest_both_ways_mm
from ragsam.metrics.overlap import Mask


class SurfaceDistances(NamedTuple):
    """Distances in mm from each surface voxel to the other mask's nearest; both empty where a mask is empty."""

    reference_to_prediction: Floats
    prediction_to_reference: Floats


def surface(mask: Mask) -> Mask:
    """Return the surface voxels of a mask [X, Y, Z], as a mask of the same shape."""
    mask = np.asarray(mask, dtype=bool)
    inner = mask.copy()
    for axis in range(mask.ndim):
        inside = np.moveaxis(inner, axis, 0)
        voxels = np.moveaxis(mask, axis, 0)
        inside[1:] &= voxels[:-1]
        inside[:-1] &= voxels[1:]
        inside[:1] = False
        inside[-1:] = False
    return mask ^ inner


def surface_distances(reference: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Measure both surfaces against each other; arguments and errors as of `checked_masks`."""
    first, second, spacing = checked_masks(reference, prediction, spacing_mm)
    if not first.any() or not second.any():
        return SurfaceDistances(np.empty(0), np.empty(0))
    return SurfaceDistances(*nearest_both_ways_mm(surface(first), surface(second), spacing))


def hd_mm(distances: SurfaceDistances) -> float | None:
    """Return the Hausdorff distance, the largest of both directions; None if a mask is empty."""
    if not distances.reference_to_prediction.size:
        return None
    return float(np.concatenate(distances).max())


def hd95_mm(distances: SurfaceDistances) -> float | None:
    """Return the larger of the two directed 95th percentiles (linear interpolation); None if a mask is empty."""
    if not distances.reference_to_prediction.size:
        return None
    forth = np.percentile(distances.reference_to_prediction, 95)
    back = np.percentile(distances.prediction_to_reference, 95)
    return float(max(forth, back))


def hd95_pooled_mm(distances: SurfaceDistances) -> float | None:
    """Return the 95th percentile of both directions' distances together, as medpy has it; None if a mask is empty.

    Where one surface lies off the other on one side only, it is the kinder of the two definitions.
    """
    both = np.concatenate(distances)
    if len(both) == 0:
        return None
    return float(np.percentile(both, 95))


def assd_mm(distances: SurfaceDistances) -> float | None:
    """Return the mean of all distances of both directions, pooled; None if a mask is empty."""
    both = np.concatenate(distances)
    if len(both) == 0:
        return None
    return float(both.mean())


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Return the image's physical diagonal, from corner to corner of the voxel grid: the penalty for a total miss."""
    extents_mm = np.multiply(shape, spacing_mm).tolist()
    return math.sqrt(sum(extent_mm**2 for extent_mm in extents_mm))


def checked_masks(reference: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> tuple[Mask, Mask, Floats]:
    """Return two masks and their spacing, the axes turned round where the first is in memory the other way.

    A NIfTI file's voxels do: its first axis runs fastest. No distance depends on the order of the axes, but the time
    to read and shift voxels does.

    Args:
        reference, prediction: [X, Y, Z], bool.
        spacing_mm: (3,), mm, array order.

    Raises:
        ValueError: where the shapes differ or are not of three axes, or the spacing is not positive or not (3,).
    """
    first = np.asarray(reference, dtype=bool)
    second = np.asarray(prediction, dtype=bool)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"masks of one shape are needed, got {first.shape} and {second.shape}")
    if first.ndim != 3:
        raise ValueError(f"masks of three axes are needed, got {first.shape}")
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(f"3 positive spacings in mm are needed, got {tuple(spacing.tolist())}")
    if first.flags.fnc:
        first = first.T
        second = second.T
        spacing = spacing[::-1]
    return np.ascontiguousarray(first), np.ascontiguousarray(second), spacing
