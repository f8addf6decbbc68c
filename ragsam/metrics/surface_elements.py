"""The normalised surface Dice (NSD) and a 95th percentile of distances, both weighted by surface area.

A surface element sits where eight voxels meet, if some of them are inside the mask and some outside. Its area is that
of the surface which marching cubes draws between the eight voxel centres.

Source: Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy", 2021, whose
public `surface-distance` package this agrees with; Lorensen and Cline, "Marching cubes", 1987.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragsam.metrics.nearest import ROUNDING_MM, Floats, Ints, nearest_both_ways_mm
from ragsam.metrics.overlap import Mask
from ragsam.metrics.surface import checked_masks

Corner = tuple[int, int, int]
Edge = tuple[Corner, Corner]

CORNERS: tuple[Corner, ...] = tuple(product((0, 1), repeat=3))
_EDGES: list[Edge] = [pair for pair in combinations(CORNERS, 2) if math.dist(*pair) == 1]
_FULL = 255


def nsd(
    reference: Mask,
    prediction: Mask,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    *,
    rounding_mm: float = ROUNDING_MM,
) -> float | None:
    """Return the share of both surfaces' area within `tolerance_mm` of the other surface, arguments as `checked_masks`.

    Args:
        tolerance_mm: a distance of just that is within it.
        rounding_mm: how far a distance may exceed the tolerance: voxel spacings are often stored in 32 bits.

    Returns:
        0-1; None if both masks are empty; 0 where one is.
    """
    limit_mm = tolerance_mm + rounding_mm
    return share_within(element_distances(reference, prediction, spacing_mm, limit_mm=limit_mm), limit_mm)


class ElementDistances(NamedTuple):
    """The surface elements of two masks, of the reference first; empty where a mask is.

    Attributes:
        distances_mm: from each element to the other mask's nearest; infinity where the other mask is empty.
        areas_mm2: of each element.
    """

    distances_mm: tuple[Floats, Floats]
    areas_mm2: tuple[Floats, Floats]


def element_distances(
    reference: Mask, prediction: Mask, spacing_mm: Sequence[float], *, limit_mm: float = math.inf
) -> ElementDistances:
    """Measure the surface elements of two masks against each other; arguments and errors as of `checked_masks`.

    Args:
        limit_mm: what lies farther is given as infinity, which saves the search for it.
    """
    first, second, spacing = checked_masks(reference, prediction, spacing_mm)
    table_mm2 = element_areas_mm2(tuple(spacing.tolist()))
    codes = [neighbour_codes(first), neighbour_codes(second)]
    elements = [code - np.uint8(1) < _FULL - 1 for code in codes]  # neither 0, which wraps round, nor full
    areas_mm2 = [table_mm2[code[element]] for code, element in zip(codes, elements, strict=True)]
    if first.any() and second.any():
        distances_mm = nearest_both_ways_mm(*elements, spacing, limit_mm=limit_mm)
    else:
        distances_mm = (np.full(len(areas_mm2[0]), np.inf), np.full(len(areas_mm2[1]), np.inf))
    return ElementDistances(distances_mm, (areas_mm2[0], areas_mm2[1]))


def share_within(elements: ElementDistances, limit_mm: float) -> float | None:
    """Return the share of both surfaces' area within `limit_mm` of the other, 0-1; None if both are empty."""
    close_mm2 = 0.0
    all_mm2 = 0.0
    for distances_mm, areas_mm2 in zip(*elements, strict=True):
        close_mm2 += float(areas_mm2[distances_mm <= limit_mm].sum())
        all_mm2 += float(areas_mm2.sum())
    return close_mm2 / all_mm2 if all_mm2 else None


def hd95_area_mm(elements: ElementDistances) -> float | None:
    """Return the larger of the two distances within which 95 % of a surface's area lies; None if a mask is empty.

    surface-distance has it so (`compute_robust_hausdorff`): a distance that occurs, without interpolation.
    """
    found = []
    for distances_mm, areas_mm2 in zip(*elements, strict=True):
        if not areas_mm2.size or np.isinf(distances_mm).any():
            return None
        order = np.argsort(distances_mm)
        covered = np.cumsum(areas_mm2[order]) / np.sum(areas_mm2)
        place = min(int(np.searchsorted(covered, 0.95)), len(order) - 1)
        found.append(float(distances_mm[order[place]]))
    return max(found)


def neighbour_codes(mask: Mask) -> NDArray[np.uint8]:
    """Return which of the eight voxels around each meeting point are inside, a bit each in the order of `CORNERS`.

    A mask [X, Y, Z] has the codes [X + 1, Y + 1, Z + 1]: 0 where all eight are outside, 255 where all are inside.
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


def element_areas_mm2(spacing_mm: tuple[float, float, float]) -> Floats:
    """Return the area of the surface element of every neighbour code, [256], in mm2; see `neighbour_codes`."""
    x, y, z = spacing_mm
    owners, normals = _triangles()
    areas = np.linalg.norm(normals * (y * z, x * z, x * y), axis=1)
    return np.bincount(owners, areas, minlength=_FULL + 1)


@cache
def _triangles() -> tuple[Ints, Floats]:
    """Return the triangles of all codes: whose they are [N], and normals as long as their area on a unit grid [N, 3].

    Inside and outside may be swapped, so a code with more than four voxels inside has the surface of its complement.
    Around a face with two voxels inside at opposite corners, they are kept apart.
    """
    owners, normals = [], []
    for code in range(1, _FULL):
        few = min(code, _FULL - code, key=int.bit_count)
        inside = {corner for bit, corner in enumerate(CORNERS) if few >> bit & 1}
        for polygon in _polygons(inside):
            fan = _widest_fan(polygon)
            owners += [code] * len(fan)
            normals.append(fan)
    return np.array(owners), np.concatenate(normals)


def _polygons(inside: set[Corner]) -> list[Floats]:
    """Return the closed polygons [N, 3] between inside and outside; they cross the cube's edges in their middle."""
    joined: dict[Edge, list[Edge]] = defaultdict(list)
    for axis, side in product(range(3), (0, 1)):
        face = [edge for edge in _EDGES if edge[0][axis] == edge[1][axis] == side]
        crossed = [edge for edge in face if len(inside.intersection(edge)) == 1]
        # Of four, those that meet in a corner inside are joined.
        crossed.sort(key=lambda edge: inside.intersection(edge).pop())
        for one, other in zip(crossed[::2], crossed[1::2], strict=True):
            joined[one].append(other)
            joined[other].append(one)
    polygons = []
    while joined:
        edge = min(joined)
        loop = []
        while edge is not None:
            loop.append(edge)
            neighbours = joined.pop(edge)
            edge = next(filter(joined.__contains__, neighbours), None)
        polygons.append(np.array(loop, float).mean(axis=1))
    return polygons


def _widest_fan(polygon: Floats) -> Floats:
    """Return the normals [N, 3] of the fan of triangles with the largest area: a bent polygon has several surfaces."""
    fans = []
    for turn in range(len(polygon)):
        turned = np.roll(polygon, -turn, axis=0)
        spokes = turned[1:] - turned[0]
        fans.append(np.cross(spokes[:-1], spokes[1:]) / 2)
    areas = [np.linalg.norm(fan, axis=1).sum() for fan in fans]
    return fans[np.argmax(areas)]
