"""The phantom's anatomy: organs as shapes in a body of standard size, drawn again for every patient.

Coordinates are mm in the standard body: x to the patient's right is positive, y forward, z upward; the origin is in
front of the spine at the height of the pancreas. The abdominal cavity reaches about 105 mm to the sides and 70 mm
forward and back. Sizes and Hounsfield values follow common anatomy and CT teaching, rounded; thin organs are made
thicker than life, so that they survive voxels of 4 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ragsam.data.phantom.shapes import Cut, Ellipsoid, Grown, Shape, Tube, Union, Waves, rotation

FAT_HU = -100.0


@dataclass(frozen=True)
class Part:
    """A solid to paint: its shape, its organ (None for unlabelled tissue) and HU by depth, [(depth_mm, hu), ...]."""

    shape: Shape
    organ: str | None
    layers: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Contrast:
    """Hounsfield values of one patient. `phase` runs from 0, late arterial, to 1, portal venous."""

    phase: float
    hu: dict[str, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Contrast:
        """Draw a phase and the tissues' values around it."""
        phase = float(rng.uniform())
        ends = {
            "aorta": (330, 175),
            "vena_cava": (115, 150),
            "portal": (150, 190),
            "liver": (80, 112),
            "spleen": (135, 130),
            "cortex": (215, 190),
            "medulla": (120, 165),
            "pancreas": (112, 100),
            "stomach": (72, 80),
            "fluid": (12, 12),
            "bile": (8, 8),
            "esophagus": (48, 56),
            "adrenal": (78, 74),
            "muscle": (56, 62),
            "bowel": (48, 58),
            "heart": (190, 150),
        }
        level = {name: a + phase * (b - a) + rng.uniform(-7, 7) for name, (a, b) in ends.items()}
        return cls(phase, level)


def _near(shift: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """The point (x, y, z) of the standard body, shifted, mm."""
    return shift + np.array([x, y, z])


class _Pen:
    """Draws shapes with a patient's random differences."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def shift(self, mm: float | Sequence[float]) -> np.ndarray:
        return self.rng.uniform(-1, 1, size=3) * mm

    def size(self, share: float) -> float:
        return float(1 + self.rng.uniform(-share, share))

    def wobble(self, shape: Shape, amplitude: float, wavelength_mm: float) -> Grown:
        return Grown(shape, 0.0, Waves.draw(self.rng, amplitude=amplitude, wavelength_mm=wavelength_mm))

    def blob(self, centre: Sequence[float], radii: Sequence[float], tilt: Sequence[float] = (0, 0, 0)) -> Ellipsoid:
        radii = [radius * self.size(0.1) for radius in radii]
        turn = rotation(*(angle + self.rng.uniform(-8, 8) for angle in tilt))
        return Ellipsoid(centre, radii, turn)

    def tube(self, points: Sequence[Sequence[float]], radii: Sequence[float], spread_mm: float = 3.0) -> Tube:
        line = np.asarray(points, np.float64) + self.rng.uniform(-spread_mm, spread_mm, size=(len(points), 3))
        return Tube.along(line, np.asarray(radii) * self.size(0.1))


def draw_parts(rng: np.random.Generator, contrast: Contrast) -> tuple[list[Part], list[Part]]:
    """Draw a patient's parts in painting order: those to paint before the lungs, which cut them off, and those after.

    Later parts cover earlier ones.
    """
    pen, hu = _Pen(rng), contrast.hu
    liver_at, spleen_at = pen.shift(8), pen.shift(8)
    right_at, left_at = pen.shift([7, 4, 9]), pen.shift([7, 4, 9])
    early = _bowel(pen, hu) + _liver(pen, hu, liver_at) + _stomach(pen, hu) + _spleen(pen, hu, spleen_at)
    late = _heart(pen, hu) + _spine(pen, hu)
    late += _kidney(pen, hu, 1, right_at) + _kidney(pen, hu, -1, left_at)
    late += _gallbladder(pen, hu, liver_at) + _pancreas(pen, hu, spleen_at) + _portal(pen, hu, spleen_at)
    late += _adrenal(pen, hu, 1, right_at) + _adrenal(pen, hu, -1, left_at)
    late += _great_vessels(pen, hu) + _esophagus(pen, hu)
    return early, late


def _heart(pen: _Pen, hu: dict[str, float]) -> list[Part]:
    heart = pen.blob(_near(pen.shift(5), -18, 30, 124), (50, 34, 28), (0, 12, 20))
    return [Part(heart, None, [(0, hu["muscle"] + 40), (9, hu["heart"])])]


def _bowel(pen: _Pen, hu: dict[str, float]) -> list[Part]:
    rng, parts = pen.rng, []
    loops = [
        pen.tube([(76, 0, -125), (80, 2, -70), (72, 12, -30)], (17, 17, 15), 5),  # ascending colon
        pen.tube([(72, 20, -32), (25, 50, -38), (-25, 52, -30), (-84, 0, 0)], (13, 14, 14, 12), 7),  # transverse
        pen.tube([(-85, -8, 5), (-86, -12, -60), (-78, 0, -125)], (12, 13, 14), 4),  # descending
        pen.tube([(22, 30, 2), (42, 16, -8), (42, 4, -38), (6, 0, -44)], (10, 11, 11, 10), 3),  # duodenum
    ]
    for _ in range(13):  # small bowel
        start = np.array([rng.uniform(-60, 55), rng.uniform(8, 48), rng.uniform(-130, -42)])
        way = rng.normal(size=(3, 3)) * (22, 8, 12)
        loops.append(pen.tube(start + np.cumsum(way, axis=0), [rng.uniform(9, 14)] * 3, 0))
    for index, loop in enumerate(loops):
        inside = rng.uniform(5, 40) if index > 2 else rng.uniform(-20, 60)
        parts.append(Part(loop, None, [(0, hu["bowel"]), (4, inside)]))
        if index < 2 or rng.uniform() < 0.3:  # gas floats up
            low, high = loop.box()
            level = low[1] + (high[1] - low[1]) * rng.uniform(0.5, 0.8)
            parts.append(Part(Cut(Grown(loop, -5), (0, level, 0), (0, -1, 0)), None, [(0, -750.0)]))
    return parts


def _liver(pen: _Pen, hu: dict[str, float], at: np.ndarray) -> list[Part]:
    grow = pen.size(0.1)
    right = pen.blob(_near(at, 56, 4, 38), np.array([52, 62, 66]) * grow)
    left = pen.blob(_near(at, 8, 34, 56), np.array([60, 30, 34]) * grow * pen.size(0.12), (0, -14, 6))
    whole = Cut(Union([right, left], 14), _near(at, 18, -8, 8), (-0.62, -0.42, -0.66))
    behind = Cut(whole, _near(at, 62, -30, 14), (-0.25, -0.8, -0.55))  # room for the kidney
    liver = pen.wobble(behind, 3.0, 70)
    veins = [
        pen.tube([_near(at, 22, -6, 66), _near(at, 48, 8, 62), _near(at, 74, 20, 50)], (5.5, 5, 4), 4),
        pen.tube([_near(at, 20, -2, 68), _near(at, 22, 28, 64), _near(at, 10, 44, 56)], (5, 4.5, 4), 4),
    ]
    return [Part(liver, "liver", [(0, hu["liver"])])] + [
        Part(vein, "liver", [(0, hu["liver"] + 12 + 0.25 * (hu["portal"] - hu["liver"]))]) for vein in veins
    ]


def _stomach(pen: _Pen, hu: dict[str, float]) -> list[Part]:
    rng, at = pen.rng, pen.shift(7)
    full = rng.uniform(0.75, 1.15)
    line = [(-42, -2, 78), (-56, 10, 60), (-56, 30, 30), (-30, 42, 6), (2, 40, 0), (20, 34, 2)]
    tube = pen.tube([at + point for point in line], np.array([24, 27, 25, 19, 14, 9]) * full, 4)
    shape = pen.wobble(tube, 2.0, 60)
    content = hu["fluid"] if rng.uniform() < 0.6 else rng.uniform(25, 45)
    parts = [Part(shape, "stomach", [(0, hu["stomach"]), (5, content)])]
    level = at[1] + rng.uniform(22, 44)
    return [*parts, Part(Cut(Grown(shape, -5.5), (0, level, 0), (0, -1, 0)), "stomach", [(0, -850.0)])]


def _spleen(pen: _Pen, hu: dict[str, float], at: np.ndarray) -> list[Part]:
    grow = pen.size(0.15)
    body = pen.blob(_near(at, -78, -28, 42), np.array([25, 35, 42]) * grow, (18, -12, 20))
    spleen = Cut(body, _near(at, -57, -26, 42), (0.95, 0.3, 0.0))
    return [Part(pen.wobble(spleen, 2.2, 50), "spleen", [(0, hu["spleen"])])]


def _spine(pen: _Pen, hu: dict[str, float]) -> list[Part]:
    rng, parts = pen.rng, []
    for side in (1, -1):
        line = [(side * 27, -44, 10), (side * 36, -45, -50), (side * 48, -38, -130)]
        parts.append(Part(pen.tube(line, (8, 14, 20), 2), None, [(0, hu["muscle"])]))
    parts.append(Part(pen.tube([(0, -46, -150), (0, -47, 0), (0, -50, 150)], (20, 20, 18), 1.5), None, [(0, 75.0)]))
    parts.append(Part(Tube.along([(0, -74, -150), (0, -76, 150)], (12, 12)), None, [(0, 300.0), (4, 120.0)]))
    parts.append(Part(Tube.along([(0, -72, -150), (0, -74, 150)], (7.5, 7.5)), None, [(0, 20.0)]))
    bone, height, first = rng.uniform(140, 240), rng.uniform(30, 35), rng.uniform(0, 30)
    for z in np.arange(-150 + first, 150, height):  # vertebral bodies, discs between them
        body = Ellipsoid((0, -47 - 0.012 * z, z), (21, 17, height * 0.52), rotation(0, 0, 0))
        parts.append(Part(body, None, [(0, bone + 130), (4, bone)]))
        spine = Tube.along([(0, -82, z), (0, -100, z - 12)], (5, 4))
        wings = Tube.along([(-34, -72, z), (0, -78, z), (34, -72, z)], (4, 5, 4))
        parts += [Part(shape, None, [(0, bone + 110)]) for shape in (spine, wings)]
    return parts


def _kidney(pen: _Pen, hu: dict[str, float], side: int, at: np.ndarray) -> list[Part]:
    name = "right_kidney" if side > 0 else "left_kidney"
    centre = at + ((49, -34, -16) if side > 0 else (-51, -34, -9))
    radii = np.array([24, 22, 49]) * pen.size(0.1)
    body = pen.blob(centre, radii, (6, -9 * side, -25 * side))
    sinus = pen.blob(centre - (side * 17, -7, 0), (12, 9, 17))
    shape = pen.wobble(body, 1.6, 45)
    return [
        Part(Grown(shape, 4.5), None, [(0, FAT_HU)]),
        Part(shape, name, [(0, hu["cortex"]), (9, hu["medulla"])]),
        Part(sinus, None, [(0, -70.0)]),
    ]


def _gallbladder(pen: _Pen, hu: dict[str, float], at: np.ndarray) -> list[Part]:
    grow = pen.size(0.2)
    shape = pen.blob(_near(at + pen.shift(4), 44, 36, -2), np.array([14, 15, 24]) * grow, (25, 10, 0))
    return [Part(pen.wobble(shape, 1.2, 40), "gallbladder", [(0, hu["bile"] + 25), (2.5, hu["bile"])])]


def _pancreas(pen: _Pen, hu: dict[str, float], at: np.ndarray) -> list[Part]:
    line = [(27, 12, -24), (26, 14, -8), (8, 20, 4), (-14, 17, 9), (-36, 6, 17), (-54, -8, 27)]
    line = [np.asarray(point) + share * at for point, share in zip(line, (0, 0, 0, 0.2, 0.6, 1), strict=True)]
    tube = pen.tube([_near(point, 0, 3, 0) for point in line], (11, 13, 10, 11, 10.5, 9), 3)
    shape = pen.wobble(tube, 1.7, 22)
    return [Part(Grown(shape, 3), None, [(0, FAT_HU)]), Part(shape, "pancreas", [(0, hu["pancreas"])])]


def _portal(pen: _Pen, hu: dict[str, float], at: np.ndarray) -> list[Part]:
    fork = np.array([12, 8, 3]) + pen.shift(3)
    trunk = pen.tube([(11, 10, -40), (12, 9, -18), fork, (22, 6, 20), (34, 8, 34)], (6, 6.5, 8, 8, 7), 2)
    splenic = pen.tube([fork, (-14, 4, 8), (-36, -7, 17), at * 0.8 + (-58, -20, 32)], (7.5, 6.8, 6.5, 6), 2)
    return [Part(Union([trunk, splenic], 4), "portal_and_splenic_vein", [(0, hu["portal"])])]


def _adrenal(pen: _Pen, hu: dict[str, float], side: int, at: np.ndarray) -> list[Part]:
    name = "right_adrenal_gland" if side > 0 else "left_adrenal_gland"
    at = at * (0.5, 0.5, 1.0) + pen.shift([2, 2, 3])
    if side > 0:
        apex, limbs = (31, -28, 55), [(46, -36, 36), (33, -41, 34)]
    else:
        apex, limbs = (-30, -19, 52), [(-46, -28, 36), (-31, -37, 33)]
    size = pen.size(0.1)
    tubes = [Tube.along([at + apex, at + limb], np.array([6.2, 5.4]) * size) for limb in limbs]
    gland = pen.wobble(Union(tubes, 3), 0.5, 25)
    return [Part(Grown(gland, 4), None, [(0, FAT_HU)]), Part(gland, name, [(0, hu["adrenal"])])]


def _great_vessels(pen: _Pen, hu: dict[str, float]) -> list[Part]:
    rng = pen.rng
    sway = rng.uniform(-5, 5)
    aorta = [(-4, -16, -150), (-9, -15, -70), (-13 + sway, -16, 0), (-12, -20, 60), (-18, -30, 150)]
    cava = [(16, -18, -150), (19, -17, -60), (20, -15, 0), (22, -12, 50), (18, 4, 92), (14, 12, 110)]
    return [
        Part(pen.tube(cava, (10.5, 11, 11.5, 12.5, 13, 14), 3), "inferior_vena_cava", [(0, hu["vena_cava"])]),
        Part(pen.tube(aorta, (10, 10.5, 11, 12, 13), 2.5), "aorta", [(0, hu["aorta"])]),
    ]


def _esophagus(pen: _Pen, hu: dict[str, float]) -> list[Part]:
    line = [(-34, 0, 70), (-20, 2, 78), (-10, -3, 90), (-4, -9, 115), (-2, -14, 160)]
    gullet = pen.tube(line, (8, 8, 8.5, 8.5, 8.5), 2)
    parts = [Part(Grown(gullet, 3), None, [(0, FAT_HU)]), Part(gullet, "esophagus", [(0, hu["esophagus"])])]
    if pen.rng.uniform() < 0.4:  # swallowed air
        air = Tube.along([(-9, -3, 92), (-4, -9, 115), (-2, -14, 160)], (2, 2.2, 2.2))
        parts.append(Part(air, "esophagus", [(0, -500.0)]))
    return parts
