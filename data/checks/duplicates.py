"""Volumes that are the same, or nearly so: a patient under two names would be in training and test at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragsam.data.checks.volume_fingerprint import BINS, Fingerprint, pooling

# Measured on 204 hippocampus MR and 54 head-and-neck CT volumes: two patients reach 0.873 and 0.980 at most; a copy
# rescaled, with noise of a tenth of the volume's deviation, turned, or with a tenth of its slices cut off has 0.9997.
THRESHOLD = 0.995
_COARSE = 0.7  # a copy with a tenth of its slices cut off has 0.79 without shifting
_COARSE_SHIFTED = 0.9  # planes averaged may lie half a step apart
_MANY_PLANES = 64
_BLOCK = 256  # volumes that are compared with all before them at once
_NEARLY = 0.999999  # 1 is left to the same voxels
_OVERLAP = 0.75
_MIN_PLANES = 8


class Duplicate(NamedTuple):
    """Two volumes, by index, and how alike they are; 1 where every voxel is the same in both files."""

    first: int
    second: int
    similarity: float


def find_duplicates(fingerprints: Sequence[Fingerprint | None]) -> list[Duplicate]:
    """Return pairs of volumes that are the same or nearly so, in order; None stands for an unreadable volume.

    Pairs join all that are alike, but of three alike volumes two pairs may be all: what two pairs join is not compared,
    so that a thousand alike volumes make a thousand pairs. Intensities may be rescaled and noisy, the volume stored in
    another orientation or format, or cut at either end of one axis. Not found: copies resampled, cut along several
    axes, or clipped to a narrow window.
    """
    found: list[Duplicate] = []
    first_of: dict[str, int] = {}
    for index, fingerprint in enumerate(fingerprints):
        if fingerprint is not None:
            first = first_of.setdefault(fingerprint.digest, index)
            if first != index:
                found.append(Duplicate(first, index, 1.0))
    known = list(first_of.values())
    prints = [fingerprints[index] for index in known]
    for i, j, value in _nearly_alike(prints):
        found.append(Duplicate(known[i], known[j], value))
    return sorted(found)


def _nearly_alike(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of volumes that are nearly the same, and how alike, until all that are alike are joined."""
    thumbnails = np.zeros((len(prints), BINS**3), np.float32)
    for thumbnail, fingerprint in zip(thumbnails, prints, strict=True):
        thumbnail[:] = _thumbnail(fingerprint)
    group = np.arange(len(prints))  # of each volume the first one that it is joined with
    for start in range(0, len(prints), _BLOCK):
        block = thumbnails[start : start + _BLOCK]
        alike = block @ thumbnails[: start + len(block)].T >= _COARSE
        for j, row in enumerate(alike, start):
            others = np.flatnonzero(row[:j])
            while len(others):
                i = int(others[0])
                others = others[1:]
                value = similarity(prints[i], prints[j])
                if value >= THRESHOLD:
                    yield i, j, value
                    others = others[group[others] != group[i]]
                    group[group == group[j]] = group[i]


def _thumbnail(fingerprint: Fingerprint) -> NDArray[np.float32]:
    """Return a volume averaged to 8 x 8 x 8, flat, with mean 0 and length 1."""
    profile = fingerprint.profiles[2].astype(np.float32)
    small = (pooling(len(profile), BINS) @ profile).ravel()
    small -= small.mean()
    return small / (np.linalg.norm(small) or 1.0)


def similarity(first: Fingerprint, second: Fingerprint) -> float:
    """Return how alike two volumes are: the best correlation over shifts along one of the three axes.

    It is 1 where the files hold the same voxels, and only there. Axes with fewer than 8 planes tell too little and are
    left out; where none is left, volumes that are not the same are at 0.
    """
    if first.digest == second.digest:
        return 1.0
    best = 0.0
    for planes_1, planes_2 in zip(first.profiles, second.profiles, strict=True):
        if min(len(planes_1), len(planes_2)) >= _MIN_PLANES:
            best = max(best, _axis_similarity(planes_1.astype(np.float32), planes_2.astype(np.float32)))
    return min(_NEARLY, best)


def _axis_similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return how alike two volumes are along an axis; where planes are many, few averaged ones rule most pairs out."""
    step = max(len(a), len(b)) // _MANY_PLANES
    if step > 1:
        rough = _best_correlation(_averaged(a, step), _averaged(b, step))
        if rough < _COARSE_SHIFTED:
            return rough
    return _best_correlation(a, b)


def _averaged(planes: NDArray, step: int) -> NDArray:
    """Return the means of every `step` planes, without a remainder."""
    return planes[: len(planes) // step * step].reshape(-1, step, planes.shape[1]).mean(1)


def _best_correlation(a: NDArray, b: NDArray) -> float:
    """Return the highest correlation of the planes that overlap, over all shifts that leave three quarters of them."""
    n, m, pixels = len(a), len(b), a.shape[1]
    shift = np.arange(1 - m, n)  # plane i of the first is on plane i - shift of the second
    start = np.maximum(shift, 0)
    stop = np.minimum(n, m + shift)
    # Row i moved right by i: the columns' sums are those of the products' diagonals, one for each shift.
    products = np.zeros((n, m + n), np.float32)
    products[:, :m] = a @ b[::-1].T
    products = products.ravel()[: n * (m + n - 1)].reshape(n, m + n - 1).sum(0, dtype=np.float64)
    count = (stop - start) * pixels
    sum_a, square_a = _between(a, start, stop)
    sum_b, square_b = _between(b, start - shift, stop - shift)
    covariance = products - sum_a * sum_b / count
    spread = (square_a - sum_a**2 / count) * (square_b - sum_b**2 / count)
    enough = (stop - start >= _OVERLAP * max(n, m)) & (spread > 0)
    return float((covariance[enough] / np.sqrt(spread[enough])).max(initial=0.0))


def _between(planes: NDArray, start: NDArray, stop: NDArray) -> tuple[NDArray, NDArray]:
    """Return the sums of the planes' values, and of their squares, from `start` to `stop`."""
    values = np.cumsum(planes.sum(1, dtype=np.float64))
    squares = np.cumsum((planes**2).sum(1, dtype=np.float64))
    values = np.append(0.0, values)
    squares = np.append(0.0, squares)
    return values[stop] - values[start], squares[stop] - squares[start]
