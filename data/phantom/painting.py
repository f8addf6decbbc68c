"""Painting the phantom: tissues over one another, mixed at their borders, then noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ragsam.data.phantom.anatomy import FAT_HU, Contrast, Part, draw_parts
from ragsam.data.phantom.shapes import Points

_SOFT_MM = 4.5  # width of the partial volume at a border: about a voxel
_CAVITY_MM = (105.0, 70.0)
_POWER = 2.4  # of the body's superellipse


def paint(
    rng: np.random.Generator, points: Points, contrast: Contrast, labels: dict[str, int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw a patient and sample it at points [3, N], mm in the standard body.

    Returns:
        Hounsfield values without noise, [N], and labels, [N], by the values that `labels` gives organs.
    """
    hu, label = np.full(points.shape[1], FAT_HU, np.float32), np.zeros(points.shape[1], np.uint8)
    early, late = draw_parts(rng, contrast)
    for part in early:
        _paint_part(hu, label, points, part, labels)
    cavity = _wall_distance(points, _CAVITY_MM, 0.0)
    dome = _dome_distance(rng, points)
    _cover(hu, label, dome, FAT_HU + 15)  # the mediastinum, and then the lungs on its two sides
    lung = np.maximum(np.maximum(cavity + 3, dome), 27 - np.abs(points[0] + 2))
    _cover(hu, label, lung, float(rng.uniform(-870, -820)))
    for part in late:
        _paint_part(hu, label, points, part, labels)
    _paint_wall(rng, hu, label, points, cavity, contrast)
    return hu, label


def _cover(hu: NDArray, label: NDArray, distance: NDArray, value: float | NDArray, organ: int = 0) -> None:
    """Paint a tissue over what is there: mixed within the border's width, the label from half way on."""
    share = np.clip(0.5 - distance / np.float32(_SOFT_MM), 0, 1)
    hu += share * (value - hu)
    label[share > 0.5] = organ


def _paint_part(hu: NDArray, label: NDArray, points: Points, part: Part, labels: dict[str, int]) -> None:
    low, high = part.shape.box()
    near = np.ones(points.shape[1], bool)
    for axis in range(3):
        near &= (points[axis] > low[axis] - _SOFT_MM) & (points[axis] < high[axis] + _SOFT_MM)
    chosen = np.flatnonzero(near)
    if not chosen.size:
        return
    distance = part.shape.distance(points[:, chosen])
    value = np.full(chosen.size, part.layers[0][1], np.float32)
    for depth_mm, inner in part.layers[1:]:
        value += np.clip(0.5 - (distance + depth_mm) / np.float32(_SOFT_MM), 0, 1) * (inner - value)
    local_hu, local_label = hu[chosen], label[chosen]
    _cover(local_hu, local_label, distance, value, labels[part.organ] if part.organ else 0)
    hu[chosen], label[chosen] = local_hu, local_label


def _wall_distance(points: Points, radii: Sequence[float], centre_y: float) -> NDArray[np.float32]:
    """Signed distance, to first order, of an upright superelliptic cylinder."""
    x, y = np.abs(points[0]), np.abs(points[1] - np.float32(centre_y))
    level = ((x / radii[0]) ** _POWER + (y / radii[1]) ** _POWER) ** np.float32(1 / _POWER)
    return np.sqrt(x * x + y * y) * (1 - 1 / np.maximum(level, np.float32(0.05)))


def _dome_distance(rng: np.random.Generator, points: Points) -> NDArray[np.float32]:
    """Signed distance, roughly, of what is above the diaphragm: two domes that fall off towards the chest wall."""
    x, y, z = points
    out = np.minimum((x / _CAVITY_MM[0]) ** 2 + (y / _CAVITY_MM[1]) ** 2, 1)
    top = rng.uniform(88, 100) - rng.uniform(4, 12) * (x < 0)
    dome = top - rng.uniform(45, 65) * out**2 - np.float32(20) * np.clip(-y / 70, 0, 1)
    return ((dome - z) * 0.7).astype(np.float32)


def _paint_wall(
    rng: np.random.Generator, hu: NDArray, label: NDArray, points: Points, cavity: NDArray, contrast: Contrast
) -> None:
    """Muscle, ribs, subcutaneous fat, skin and the air around, each covering what is outside the one before."""
    side, fat = rng.uniform(9, 14), rng.uniform(5, 20)
    muscle_radii = (_CAVITY_MM[0] + side, _CAVITY_MM[1] + 17)
    muscle = _wall_distance(points, muscle_radii, -8)
    body = _wall_distance(points, (muscle_radii[0] + fat, muscle_radii[1] + 0.9 * fat), -8)
    away_from_spine = 30 - np.sqrt(points[0] ** 2 + (points[1] + 62) ** 2)
    _cover(hu, label, np.maximum(-cavity, away_from_spine), contrast.hu["muscle"])
    slope = np.abs(points[0]) * np.float32(0.35) + points[1] * np.float32(0.45)
    rib = np.abs((points[2] + slope + rng.uniform(0, 30)) % 30 - 15) - np.float32(5)
    ring = np.abs(0.5 * (cavity + muscle)) - np.float32(3.5)
    above = -10 - points[2] + np.float32(0.3) * points[1]
    bone = np.maximum(np.maximum(rib, ring), np.maximum(above, away_from_spine))
    _cover(hu, label, bone, float(rng.uniform(280, 420)))
    _cover(hu, label, -muscle, FAT_HU - 5)
    _cover(hu, label, -(body + 2.5), 30.0)
    _cover(hu, label, -body, -1000.0)


def add_noise(rng: np.random.Generator, hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add tissue texture and scanner noise to [X, Y, Z], standard deviation 10 to 12 HU together, less in air."""
    texture = gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), 1.2)
    noise = gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), (0.5, 0.5, 0))
    texture *= 4.5 / texture.std()
    noise *= rng.uniform(9, 11) / noise.std()
    return hu + (noise + texture) * np.where(hu < -500, np.float32(0.6), np.float32(1))
