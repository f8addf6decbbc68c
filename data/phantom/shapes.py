"""Implicit shapes for the phantom: each gives, for points in mm, about how far outside itself they lie (mm)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Distance = NDArray[np.float32]
Box = tuple[NDArray[np.float32], NDArray[np.float32]]


class Shape(Protocol):
    """A solid. Distances are negative inside, exact enough near the surface; `box` encloses the solid."""

    def distance(self, points: Points) -> Distance:
        """Signed distance, [N], mm, of points [3, N], mm."""

    def box(self) -> Box:
        """Lower and upper corner, [3] each, mm, of a box around the solid."""


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of plane waves. Defined in mm, so that any grid samples the same field."""

    vectors: NDArray[np.float32]  # [M, 3], radians per mm
    phases: NDArray[np.float32]  # [M]
    amplitude: float

    @classmethod
    def draw(cls, rng: np.random.Generator, *, amplitude: float, wavelength_mm: float, count: int = 4) -> Waves:
        """Draw `count` waves, 0.7 to 1.4 times the wavelength; `amplitude` is the field's standard deviation."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = wavelength_mm * rng.uniform(0.7, 1.4, size=(count, 1))
        vectors = (2 * np.pi / lengths * directions).astype(np.float32)
        phases = rng.uniform(0, 2 * np.pi, size=count).astype(np.float32)
        return cls(vectors, phases, float(amplitude * np.sqrt(2 / count)))

    def __call__(self, points: Points) -> Distance:
        """Field values, [N], at points [3, N], mm."""
        total = np.zeros(points.shape[1], np.float32)
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            total += np.sin(vector @ points + phase)
        return total * np.float32(self.amplitude)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid; `turn` holds its axes as columns."""

    centre: Sequence[float]
    radii: Sequence[float]
    turn: NDArray[np.float64]

    def distance(self, points: Points) -> Distance:
        """Signed distance to first order (exact on the surface)."""
        radii = np.asarray(self.radii, np.float32)[:, None]
        local = self.turn.T.astype(np.float32) @ (points - np.asarray(self.centre, np.float32)[:, None])
        level = np.sqrt(((local / radii) ** 2).sum(axis=0))
        slope = np.sqrt(((local / radii**2) ** 2).sum(axis=0)) + np.float32(1e-6)
        return level * (level - 1) / slope

    def box(self) -> Box:
        """A cube of the longest radius."""
        centre, reach = np.asarray(self.centre, np.float32), np.float32(max(self.radii))
        return centre - reach, centre + reach


@dataclass(frozen=True)
class Tube:
    """A tube along a polyline [M, 3] with radii [M] at its points, round at both ends."""

    points: NDArray[np.float32]
    radii: NDArray[np.float32]

    @classmethod
    def along(cls, points: Sequence[Sequence[float]], radii: Sequence[float], *, steps: int = 3) -> Tube:
        """A tube on a Catmull-Rom curve through `points`, `steps` straight pieces between two of them."""
        knots = np.concatenate([np.asarray(points, np.float32), np.asarray(radii, np.float32)[:, None]], axis=1)
        padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
        before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
        t = (np.arange(steps, dtype=np.float32) / steps)[None, :, None]
        p0, p1, p2, p3 = (part[:, None, :] for part in (before, start, end, after))
        curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2)
        curve += 0.5 * (3 * p1 - p0 - 3 * p2 + p3) * t**3
        line = np.concatenate([curve.reshape(-1, 4), knots[-1:]])
        return cls(line[:, :3], line[:, 3])

    def distance(self, points: Points) -> Distance:
        """Distance to the nearest piece's axis, less the radius there."""
        best = np.full(points.shape[1], np.inf, np.float32)
        for start, end, r0, r1 in zip(self.points, self.points[1:], self.radii, self.radii[1:], strict=False):
            way = end - start
            offset = points - start[:, None]
            along = np.clip(way @ offset / max(float(way @ way), 1e-6), 0, 1)
            offset -= along * way[:, None]
            np.minimum(best, np.sqrt((offset * offset).sum(axis=0)) - (r0 + (r1 - r0) * along), out=best)
        return best

    def box(self) -> Box:
        """The points' extent and the largest radius."""
        reach = self.radii.max()
        return self.points.min(axis=0) - reach, self.points.max(axis=0) + reach


@dataclass(frozen=True)
class Union:
    """Shapes grown together; `blend_mm` rounds the seam."""

    parts: Sequence[Shape]
    blend_mm: float = 8.0

    def distance(self, points: Points) -> Distance:
        """Smooth minimum of the parts' distances."""
        total = self.parts[0].distance(points)
        for part in self.parts[1:]:
            other = part.distance(points)
            overlap = np.maximum(self.blend_mm - np.abs(total - other), 0) / self.blend_mm
            total = np.minimum(total, other) - overlap * overlap * np.float32(self.blend_mm / 4)
        return total

    def box(self) -> Box:
        """The box around all parts."""
        corners = [part.box() for part in self.parts]
        return np.min([low for low, _ in corners], axis=0), np.max([high for _, high in corners], axis=0)


@dataclass(frozen=True)
class Cut:
    """A shape cut off by a plane through `point`: what is on the side that `normal` points to is gone."""

    shape: Shape
    point: Sequence[float]
    normal: Sequence[float]

    def distance(self, points: Points) -> Distance:
        """The larger of the shape's and the half-space's distance."""
        normal = np.asarray(self.normal, np.float32) / np.float32(np.linalg.norm(self.normal))
        beyond = normal @ points - np.float32(np.dot(normal, np.asarray(self.point, np.float32)))
        return np.maximum(self.shape.distance(points), beyond)

    def box(self) -> Box:
        """The uncut shape's box."""
        return self.shape.box()


@dataclass(frozen=True)
class Grown:
    """A shape grown by `by_mm` (shrunk where negative), its surface moved by `wobble` where given."""

    shape: Shape
    by_mm: float = 0.0
    wobble: Waves | None = None

    def distance(self, points: Points) -> Distance:
        """The shape's distance less the growth."""
        distance = self.shape.distance(points) - np.float32(self.by_mm)
        return distance if self.wobble is None else distance + self.wobble(points)

    def box(self) -> Box:
        """The shape's box, widened by the growth and the wobble's amplitude."""
        reach = np.float32(max(self.by_mm, 0.0) + (2.5 * self.wobble.amplitude if self.wobble else 0.0))
        low, high = self.shape.box()
        return low - reach, high + reach


def rotation(x_deg: float, y_deg: float, z_deg: float) -> NDArray[np.float64]:
    """Rotation matrix, [3, 3], about x, then y, then z, in degrees."""
    (cx, cy, cz), (sx, sy, sz) = (f(np.deg2rad([x_deg, y_deg, z_deg])) for f in (np.cos, np.sin))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
