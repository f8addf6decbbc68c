"""Overlap of two masks: Dice, Jaccard and volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MM3_PER_ML = 1000.0


def dice(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float | None:
    """Return the Dice coefficient, twice the intersection over the sum of both masks.

    Args:
        reference, prediction: bool arrays of one shape.

    Returns:
        0-1; None where both masks are empty, since 0/0 says nothing; 0 where exactly one is.

    Raises:
        ValueError: where the shapes differ.
    """
    both, total = _counts(reference, prediction)
    return 2.0 * both / total if total else None


def iou(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float | None:
    """Return the intersection over the union (Jaccard); degenerate masks are treated as by `dice`."""
    both, total = _counts(reference, prediction)
    return both / (total - both) if total else None


def volume_ml(voxels: int, spacing_mm: Sequence[float]) -> float:
    """Return the volume of a number of voxels in millilitres; `spacing_mm`: (3,), mm, array order."""
    return int(voxels) * float(np.prod(np.asarray(spacing_mm, dtype=np.float64))) / MM3_PER_ML


def _counts(reference: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the voxels in both masks and the sum of each mask's voxels."""
    first, second = np.asarray(reference, dtype=bool), np.asarray(prediction, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"masks of one shape are needed, got {first.shape} and {second.shape}")
    both = int(np.count_nonzero(first & second))
    return both, int(np.count_nonzero(first)) + int(np.count_nonzero(second))
