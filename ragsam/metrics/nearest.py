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

from ragsam.metrics.overlap import Mask

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# One nanometre: a distance that equals a limit but for rounding is within it.
ROUNDING_MM = 1e-6
# How many grid points around each may be looked at, about; how many looks are made at once; and how many for each
# point on average, before the tree is quicker.
_AROUND = 1000
_LOOKS = 100_000
_PATIENCE = 50


def nearest_both_ways_mm(
    first: Mask, second: Mask, spacing_mm: Floats, *, limit_mm: float = math.inf
) -> tuple[Floats, Floats]:
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
    # With a margin of False on every side no step from a point leaves the array.
    margin = np.abs(steps).max(axis=0)[:, None]
    masks = [np.ascontiguousarray(np.pad(first, margin)), np.ascontiguousarray(np.pad(second, margin))]
    flat_steps = steps @ np.array(masks[0].strides)  # a voxel is a byte
    points = [np.flatnonzero(masks[0]), np.flatnonzero(masks[1])]
    found = []
    for here, there in ((0, 1), (1, 0)):
        distances, all_seen = _look_around(points[here], masks[there].reshape(-1), flat_steps, lengths)
        unmet = np.isinf(distances)
        beyond_limit = all_seen and radius_mm >= limit_mm
        if unmet.any() and not beyond_limit:
            places = np.unravel_index(points[here][unmet], masks[0].shape)
            others = np.unravel_index(points[there], masks[0].shape)
            distances[unmet] = _search(np.stack(places, 1), np.stack(others, 1), spacing_mm, limit_mm)
        found.append(distances)
    return found[0], found[1]


def _around(spacing_mm: Floats, limit_mm: float) -> tuple[Ints, Floats, float]:
    """Return the grid steps of a ball [N, 3] and their lengths in mm, the shortest first, and the ball's radius."""
    ball_mm3 = _AROUND * float(np.prod(spacing_mm))
    ball_radius_mm = (3 * ball_mm3 / (4 * math.pi)) ** (1 / 3)
    radius_mm = min(ball_radius_mm, limit_mm + ROUNDING_MM)
    reach = np.floor(radius_mm / spacing_mm).astype(np.int64)
    steps = np.indices(2 * reach + 1).reshape(3, -1).T - reach
    lengths = _length_mm(steps, spacing_mm)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] <= radius_mm]
    return steps[order], lengths[order], radius_mm


def _look_around(points: Ints, others: Mask, steps: Ints, lengths: Floats) -> tuple[Floats, bool]:
    """Return the length of the first step that leads from each point to one of the others, infinity where none does.

    Points and steps are flat indices; the steps come the shortest first. The second value says whether all steps were
    tried: sets far apart are soon left to the tree.
    """
    met_at = np.full(len(points), len(steps))
    waiting = np.arange(len(points))
    done = 0
    looks = _PATIENCE * len(points) + _LOOKS
    while len(waiting) and done < len(steps) and looks > 0:
        block = steps[done : done + max(1, _LOOKS // len(waiting))]
        met = others.take(block[:, None] + points, mode="clip")  # never outside; "clip" spares the check
        found = np.bitwise_or.reduce(met)
        hits = np.flatnonzero(found)
        misses = np.flatnonzero(~found)
        met_at[waiting[hits]] = done + met[:, hits].argmax(axis=0)
        waiting = waiting[misses]
        points = points[misses]
        done += len(block)
        looks -= met.size
    all_seen = not len(waiting) or done >= len(steps)
    return np.append(lengths, np.inf)[met_at], all_seen


def _search(points: Ints, others: Ints, spacing_mm: Floats, limit_mm: float) -> Floats:
    """Return each point's distance to the nearest of the others; both are grid places, [N, 3]."""
    tree = cKDTree(others * spacing_mm, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances, nearest = tree.query(points * spacing_mm, distance_upper_bound=limit_mm + 2 * ROUNDING_MM)
    near = np.isfinite(distances)
    distances[near] = _length_mm(points[near] - others[nearest[near]], spacing_mm)
    return distances


def _length_mm(steps: Ints, spacing_mm: Floats) -> Floats:
    return np.sqrt(((steps * spacing_mm) ** 2).sum(axis=1))
