"""Synthetic abdominal CT volumes with BTCV's 13 organs: something real enough to train on, with no patient in it.

Every volume is a function of its seed. The patient differs in size, pose, place in the field of view, organ shapes and
contrast phase; the grid differs in spacing and shape. A mean label map of other patients is a poor guess (see
`benchmarks/phantom_mean_label.py`), so a network has to look at the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, write_datalist
from ragsam.data.phantom.anatomy import Contrast
from ragsam.data.phantom.painting import add_noise, paint
from ragsam.data.phantom.shapes import Points, Waves, rotation
from ragsam.errors import InputError
from ragsam.files import atomic_write

STORAGES = ("canonical", "flipped", "oblique")
_LEAST_VOXELS = 24  # of every organ


@dataclass(frozen=True)
class _Grid:
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]


def make_phantom(
    seed: int, *, storage: str = "canonical"
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """Make one patient's CT and label map.

    Args:
        seed: any whole number from 0; the same seed gives the same bytes.
        storage: how the volume is in its array: `canonical` (RAS, axis-aligned), `flipped` (one or two axes run the
            other way: the same voxels as `canonical`) or `oblique` (the scanner's grid is turned by about 10 degrees
            about one axis: the same patient on another grid).

    Returns:
        image: [X, Y, Z], int16, Hounsfield units, about 78 x 68 x 40 and never above 80 x 80 in plane.
        label: [X, Y, Z], uint8, values of the card `phantom`; each of the 13 organs has some voxels.
        affine: (4, 4), voxel index to mm in RAS+ (x to the patient's right, y forward, z up).

    Raises:
        InputError: unknown storage or a negative seed.
    """
    if storage not in STORAGES:
        raise InputError(f"phantom: storage is {storage!r}; it must be one of {', '.join(STORAGES)}")
    if seed < 0:
        raise InputError(f"phantom: seed is {seed}; it must not be negative")
    labels = load_card("phantom").labels
    attempt = 0
    while True:  # an organ rarely falls out of the field of view; then the next patient of this seed is taken
        image, label, affine = _make(np.random.default_rng([seed, attempt]), labels, storage)
        if np.bincount(label.ravel(), minlength=len(labels) + 1).min() >= _LEAST_VOXELS:
            return image, label, affine
        attempt += 1


def write_phantoms(
    folder: str | Path, *, training: int = 24, validation: int = 2, test: int = 6, seed: int = 0
) -> Path:
    """Write synthetic patients as NIfTI files with a datalist, whose path is returned.

    Of every 8 patients 2 are stored flipped and 1 oblique.

    Args:
        folder: gets `images/`, `labels/` and `datalist.json`; files of the same name are replaced.
        training, validation, test: numbers of patients.
        seed: first patient's seed is `1000 * seed`, the next ones count up from there.

    Raises:
        InputError: a negative number, more than 1000 patients, or a folder that cannot be written.
    """
    counts = {"training": training, "validation": validation, "test": test}
    if min(counts.values()) < 0 or seed < 0 or not 0 < sum(counts.values()) <= 1000:
        raise InputError(f"phantom: {counts} patients, seed {seed}; ask for 1 to 1000 in all, no negative number")
    folder = Path(folder)
    sections: dict[str, list[Case]] = {}
    number = 0
    for section, count in counts.items():
        sections[section] = []
        for _ in range(count):
            sections[section].append(_write_patient(folder, number, 1000 * seed + number))
            number += 1
    path = folder / "datalist.json"
    write_datalist(path, "phantom", sections)
    return path


def _write_patient(folder: Path, number: int, seed: int) -> Case:
    storage = {3: "flipped", 6: "flipped", 7: "oblique"}.get(number % 8, "canonical")
    image, label, affine = make_phantom(seed, storage=storage)
    name = f"phantom-{number:03d}"
    case = Case(name, name, folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz")
    for path, array in ((case.image, image), (case.label, label)):
        with atomic_write(path) as temporary:
            volume = nibabel.Nifti1Image(array, affine)
            volume.header.set_xyzt_units("mm")
            nibabel.save(volume, temporary)
    return case


def _make(
    rng: np.random.Generator, labels: dict[str, int], storage: str
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    grid = _draw_grid(rng, oblique=storage == "oblique")
    contrast = Contrast.draw(rng)
    points = _draw_pose(rng, grid)
    hu, label = paint(rng, points, contrast, labels)
    hu, label = hu.reshape(grid.shape), label.reshape(grid.shape)
    image = np.clip(np.rint(add_noise(rng, hu)), -1024, 3071).astype(np.int16)
    affine = grid.affine
    if storage == "flipped":
        axes = [(0, 1), (2,), (0,), (1, 2)][int(rng.integers(4))]
        image, label, affine = np.flip(image, axes), np.flip(label, axes), _flip_affine(affine, grid.shape, axes)
    return np.ascontiguousarray(image), np.ascontiguousarray(label), affine


def _draw_grid(rng: np.random.Generator, *, oblique: bool) -> _Grid:
    """The scanner's grid: its middle is where the table stands, not where the patient's middle is."""
    in_plane = rng.uniform(3.8, 4.2)
    spacing = np.array([in_plane, in_plane, rng.uniform(5.0, 7.0)])
    shape = np.array([rng.integers(76, 81), rng.integers(64, 73), round(rng.uniform(225, 250) / spacing[2])])
    angles, origin = np.zeros(3), rng.uniform(-60, 60, size=3)
    tilt, axis = rng.choice([-1, 1]) * rng.uniform(8, 12), int(rng.integers(3))
    if oblique:
        angles[axis] = tilt
    affine = np.eye(4)
    affine[:3, :3] = rotation(*angles) * spacing
    affine[:3, 3] = origin - affine[:3, :3] @ ((shape - 1) / 2)
    return _Grid(tuple(int(n) for n in shape), np.round(affine, 6))


def _draw_pose(rng: np.random.Generator, grid: _Grid) -> Points:
    """Voxel centres, [3, N], in mm of the standard body, of which the patient is a scaled, turned and bent copy."""
    build = rng.uniform(0.9, 1.08)
    scale = build * np.array([rng.uniform(0.95, 1.05), rng.uniform(0.93, 1.07), rng.uniform(0.95, 1.06)])
    turn = rotation(rng.uniform(-6, 6), rng.uniform(-5, 5), rng.uniform(-9, 9))
    middle = grid.affine @ np.append((np.array(grid.shape) - 1) / 2, 1)
    shift = rng.uniform(-1, 1, size=3) * (22, 20, 14) + (0, -6, -8)
    inverse = np.diag(1 / scale) @ turn.T
    index = np.indices(grid.shape, dtype=np.float32).reshape(3, -1)
    matrix = (inverse @ grid.affine[:3, :3]).astype(np.float32)
    offset = (inverse @ (grid.affine[:3, 3] - middle[:3] - shift)).astype(np.float32)
    points = matrix @ index + offset[:, None]
    warp = [Waves.draw(rng, amplitude=4.0, wavelength_mm=150, count=3)(points) for _ in range(3)]
    return points + np.stack(warp)


def _flip_affine(affine: NDArray, shape: Sequence[int], axes: Sequence[int]) -> NDArray[np.float64]:
    """The affine of an array flipped along `axes`: every voxel keeps its place in the world."""
    flip = np.eye(4)
    for axis in axes:
        flip[axis, axis], flip[axis, 3] = -1, shape[axis] - 1
    return affine @ flip
