"""Overlap of two masks: Dice, Jaccard and volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

MM3_PER_ML = 1000.0


def dice(reference: Mask, prediction: Mask) -> float | None:
    """Return the Dice coefficient, twice the intersection over the sum of both masks.

    Returns:
        0-1; None if both masks are empty, since 0/0 says nothing; 0 where exactly one is.

    Raises:
        ValueError: where the shapes differ.

    Examples:
        >>> dice(np.array([True, True, False]), np.array([True, False, False]))
        0.6666666666666666
    """
    both, total = _counts(reference, prediction)
    if total == 0:
        return None
    return 2.0 * both / total


def iou(reference: Mask, prediction: Mask) -> float | None:
    """Return the intersection over the union (Jaccard); degenerate masks are treated as by `dice`."""
    both, total = _counts(reference, prediction)
    if total == 0:
        return None
    return both / (total - both)


def volume_ml(voxels: int, spacing_mm: Sequence[float]) -> float:
    """Return the volume of a number of voxels in millilitres; `spacing_mm`: (3,), mm, array order."""
    voxel_mm3 = float(np.prod(np.asarray(spacing_mm, dtype=np.float64)))
    return int(voxels) * voxel_mm3 / MM3_PER_ML


def _counts(reference: Mask, prediction: Mask) -> tuple[int, int]:
    """Return the voxels in both masks and the sum of each mask's voxels."""
    first = np.asarray(reference, dtype=bool)
    second = np.asarray(prediction, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"masks of one shape are needed, got {first.shape} and {second.shape}")
    both = np.count_nonzero(first & second)
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return int(both), int(total)
