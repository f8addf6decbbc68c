"""The normalised surface Dice (NSD), weighted by surface area.

A surface element sits where eight voxels meet, if some of them are inside the mask and some outside. Its area is that
of the surface which marching cubes draws between the eight voxel centres.

Source: Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy", 2021, whose
public `surface-distance` package this agrees with; Lorensen and Cline, "Marching cubes", 1987.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from ragsam.metrics.nearest import ROUNDING_MM, nearest_both_ways_mm
from ragsam.metrics.surface import checked_masks

CORNERS = tuple(product((0, 1), repeat=3))
_FULL = 255

Corner = tuple[int, int, int]
Edge = tuple[Corner, Corner]


def nsd(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    *,
    rounding_mm: float = ROUNDING_MM,
) -> float | None:
    """Return the share of both surfaces' area within `tolerance_mm` of the other surface.

    Args:
        reference, prediction: [X, Y, Z], bool. What lies outside the array is background.
        spacing_mm: (3,), mm, array order.
        tolerance_mm: a distance of just that is within it.
        rounding_mm: how far a distance may exceed the tolerance: voxel spacings are often stored in 32 bits.

    Returns:
        0-1; None where both masks are empty; 0 where one is.

    Raises:
        ValueError: as `checked_masks`.
    """
    first, second, spacing = checked_masks(reference, prediction, spacing_mm)
    there = bool(first.any()), bool(second.any())
    if not all(there):
        return 0.0 if any(there) else None
    areas = element_areas_mm2(tuple(spacing.tolist()))
    codes = [neighbour_codes(mask) for mask in (first, second)]
    elements = [code - np.uint8(1) < _FULL - 1 for code in codes]  # neither 0, which wraps round, nor full
    limit = tolerance_mm + rounding_mm
    distances = nearest_both_ways_mm(*elements, spacing, limit_mm=limit)
    weights = [areas[code[element]] for code, element in zip(codes, elements, strict=True)]
    close = sum(float(w[d <= limit].sum()) for w, d in zip(weights, distances, strict=True))
    return close / sum(float(w.sum()) for w in weights)


def neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return which of the eight voxels around each meeting point are inside, a bit each in the order of `CORNERS`.

    Args:
        mask: [X, Y, Z], bool.

    Returns:
        [X + 1, Y + 1, Z + 1]: 0 where all eight are outside, 255 where all are inside.
    """
    codes = np.zeros(np.array(mask.shape) + 2, np.uint8)
    codes[1:-1, 1:-1, 1:-1] = mask
    # Along the last axis first: its corners are neighbours in the order, so they get neighbouring bits.
    for axis, bits in ((2, 1), (1, 2), (0, 4)):
        along = np.moveaxis(codes, axis, 0)
        pairs = along[1:] << bits
        pairs |= along[:-1]
        codes = np.moveaxis(pairs, 0, axis)
    return codes


def element_areas_mm2(spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area of the surface element of every neighbour code, [256], in mm2; see `neighbour_codes`."""
    x, y, z = spacing_mm
    owners, normals = _triangles()
    areas = np.linalg.norm(normals * (y * z, x * z, x * y), axis=1)
    return np.bincount(owners, areas, minlength=_FULL + 1)


@cache
def _triangles() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the triangles of all codes: whose they are [N], and normals as long as their area on a unit grid [N, 3].

    Inside and outside may be swapped, so a code with more than four voxels inside has the surface of its complement.
    Around a face with two voxels inside at opposite corners, they are kept apart.
    """
    owners, normals = [], []
    for code in range(1, _FULL):
        few = code if code.bit_count() <= 4 else _FULL - code
        inside = frozenset(corner for bit, corner in enumerate(CORNERS) if few >> bit & 1)
        found = [normal for polygon in _polygons(inside) for normal in _widest_fan(polygon)]
        owners += [code] * len(found)
        normals += found
    return np.array(owners), np.array(normals)


def _polygons(inside: frozenset[Corner]) -> list[NDArray[np.float64]]:
    """Return the closed polygons [N, 3] between inside and outside; they cross the cube's edges in their middle."""
    joined: dict[Edge, list[Edge]] = {}
    for axis, side in product(range(3), (0, 1)):
        crossed = [(a, b) for a, b in _face_edges(axis, side) if (a in inside) != (b in inside)]
        if len(crossed) == 4:
            pairs = [[edge for edge in crossed if corner in edge] for corner in inside if corner[axis] == side]
        else:
            pairs = [crossed] if crossed else []
        for one, other in pairs:
            joined.setdefault(one, []).append(other)
            joined.setdefault(other, []).append(one)
    polygons = []
    while joined:
        loop = [min(joined)]
        while onward := [edge for edge in joined.pop(loop[-1]) if edge in joined and edge not in loop[1:]]:
            loop.append(onward[0])
        polygons.append(np.array(loop, float).mean(axis=1))
    return polygons


def _face_edges(axis: int, side: int) -> list[Edge]:
    face = [corner for corner in CORNERS if corner[axis] == side]
    return [(a, b) for a, b in product(face, face) if a < b and sum(i != j for i, j in zip(a, b, strict=True)) == 1]


def _widest_fan(polygon: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the normals of the fan of triangles with the largest area: a bent polygon has several surfaces."""
    fans = []
    for turn in range(len(polygon)):
        apex, *rest = np.roll(polygon, -turn, axis=0)
        fans.append([np.cross(b - apex, c - apex) / 2 for b, c in pairwise(rest)])
    return max(fans, key=lambda fan: sum(float(np.linalg.norm(normal)) for normal in fan))
