"""Distances from each point of one set of grid points to the nearest of another set, both ways, in mm.

Surfaces of a prediction and its reference mostly run close together. So each point first looks at the grid points
around it, the nearest first, until it meets one of the other set: exact, and one array look-up a step for all points at
once. Only those that meet none go through a k-d tree.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

# One nanometre: a distance that equals a limit but for rounding is within it.
ROUNDING_MM = 1e-6
# How many grid points around each may be looked at, about; how many looks are made at once; and how many for each
# point on average, before the tree is quicker.
_AROUND = 1000
_LOOKS = 100_000
_PATIENCE = 50


def nearest_both_ways_mm(
    first: NDArray[np.bool_], second: NDArray[np.bool_], spacing_mm: NDArray[np.float64], *, limit_mm: float = math.inf
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance of each point of `first` to the nearest of `second`, and of each of `second` to `first`.

    Args:
        first, second: [X, Y, Z], bool, True at a point; each has one.
        spacing_mm: (3,), mm, array order.
        limit_mm: what lies farther is given as infinity, which saves the search for it.

    Returns:
        one distance a point, in the array's order. They come from whole grid steps, so that they do not depend on where
        in the image the points lie.
    """
    steps, lengths, radius_mm = _around(spacing_mm, limit_mm)
    margin = np.abs(steps).max(axis=0)
    masks = _padded(first, margin), _padded(second, margin)
    strides = np.cumprod([1, *masks[0].shape[:0:-1]])[::-1]
    points = [np.flatnonzero(mask) for mask in masks]
    found = []
    for here, there in ((0, 1), (1, 0)):
        distances, all_seen = _look_around(points[here], masks[there].reshape(-1), steps @ strides, lengths)
        rest = () if all_seen and radius_mm >= limit_mm else np.flatnonzero(np.isinf(distances))
        if len(rest):
            places = [np.stack(np.unravel_index(p, masks[0].shape), 1) for p in (points[here][rest], points[there])]
            distances[rest] = _search(*places, spacing_mm, limit_mm)
        found.append(distances)
    return found[0], found[1]


def _around(spacing_mm: NDArray[np.float64], limit_mm: float) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Return the grid steps of a ball [N, 3] and their lengths in mm, the shortest first, and the ball's radius."""
    ball = (3 * _AROUND * float(np.prod(spacing_mm)) / (4 * math.pi)) ** (1 / 3)
    radius_mm = min(ball, limit_mm + ROUNDING_MM)
    reach = np.floor(radius_mm / spacing_mm).astype(np.int64)
    steps = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = _length_mm(steps, spacing_mm)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= radius_mm]
    return steps[order], lengths[order], radius_mm


def _padded(mask: NDArray[np.bool_], margin: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the mask with a margin of False on every side, in C order: no step from a point leaves the array."""
    padded = np.zeros(np.array(mask.shape) + 2 * margin, dtype=bool)
    padded[tuple(slice(m, m + n) for m, n in zip(margin, mask.shape, strict=True))] = mask
    return padded


def _look_around(
    points: NDArray[np.int64], others: NDArray[np.bool_], steps: NDArray[np.int64], lengths: NDArray[np.float64]
) -> tuple[NDArray[np.float64], bool]:
    """Return the length of the first step that leads from each point to one of the others, infinity where none does.

    Args:
        points: flat indices.
        others: the flat mask that they look at.
        steps: flat too, the shortest first.

    Returns:
        the lengths, and whether all steps were tried: sets far apart are soon left to the tree.
    """
    met_at = np.full(len(points), len(steps))
    waiting, done, looks = np.arange(len(points)), 0, _PATIENCE * len(points) + _LOOKS
    while len(points) and done < len(steps) and looks > 0:
        block = steps[done : done + max(1, _LOOKS // len(points))]
        met = others.take(block[:, None] + points, mode="clip")  # never outside; "clip" spares the check
        found = met.any(axis=0) if len(block) > 1 else met[0]
        hits, misses = np.flatnonzero(found), np.flatnonzero(~found)
        met_at[waiting[hits]] = done + met[:, hits].argmax(axis=0)
        waiting, points, done, looks = waiting[misses], points[misses], done + len(block), looks - met.size
    return np.append(lengths, np.inf)[met_at], not len(points) or done >= len(steps)


def _search(
    points: NDArray[np.int64], others: NDArray[np.int64], spacing_mm: NDArray[np.float64], limit_mm: float
) -> NDArray[np.float64]:
    """Return each point's distance to the nearest of the others; both are grid places, [N, 3]."""
    tree = cKDTree(others * spacing_mm, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances, nearest = tree.query(points * spacing_mm, distance_upper_bound=limit_mm + 2 * ROUNDING_MM)
    near = np.isfinite(distances)
    distances[near] = _length_mm(points[near] - others[nearest[near]], spacing_mm)
    return distances


def _length_mm(steps: NDArray[np.int64], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(((steps * spacing_mm) ** 2).sum(axis=1))
