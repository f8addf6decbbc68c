"""Where the slices of a DICOM series lie, and whether they make one straight, evenly spaced volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ragsam.errors import InputError

_DIRECTION_TOLERANCE = 1e-3  # of unit vectors, and of the tilt: as every affine is checked
_PLACE_TOLERANCE_MM = 0.05  # headers round positions
_STEP_TOLERANCE = 0.02  # of the distance between slices


def stack_slices(
    positions_mm: ArrayLike,
    orientations: ArrayLike,
    pixel_spacings_mm: ArrayLike,
    thickness_mm: float | None,
    case: str,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Sort slices along their normal and return the volume's affine.

    Args:
        positions_mm: [N, 3], Image Position (Patient): centre of each slice's first pixel.
        orientations: [N, 6], Image Orientation (Patient): direction in which the column index grows, then the row
            index.
        pixel_spacings_mm: [N, 2], Pixel Spacing: between rows, then between columns.
        thickness_mm: what a single slice is thick; None if its header does not say.
        case: how errors name it.

    Returns:
        The order of the slices, and the affine (4, 4) from (column, row, slice) to mm in the DICOM world (LPS).

    Raises:
        InputError: slices of several orientations or spacings, an invalid direction, doubled or missing slices,
            uneven spacing, slices that shift sideways (gantry tilt), one slice of unknown thickness.

    Source:
        DICOM PS3.3 C.7.6.2 (Image Plane Module), equation C.7.6.2.1-1.
    """
    positions, all_directions = np.asarray(positions_mm, float), np.asarray(orientations, float)
    spacings = np.asarray(pixel_spacings_mm, float)
    _require_one(all_directions, _DIRECTION_TOLERANCE, "orientations", case)
    _require_one(spacings, 1e-4, "pixel spacings", case)
    row, column = all_directions[0].reshape(2, 3)
    _require_directions(row, column, case)
    if spacings[0].min() <= 0:
        raise InputError(f"{case}: pixel spacing is not above 0; export the series with its geometry")
    normal = np.cross(row, column)
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    if len(positions) == 1:
        if thickness_mm is None or not thickness_mm > 0:
            raise InputError(f"{case}: a single slice of unknown thickness; export it with its geometry")
        step = normal * thickness_mm
    else:
        _require_even(heights[order], case)
        step = _straight_step(positions[order], normal, case)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * spacings[0, 1], column * spacings[0, 0]
    affine[:3, 2], affine[:3, 3] = step, positions[order[0]]
    return order, affine


def _require_one(values: NDArray, tolerance: float, what: str, case: str) -> None:
    others = int((np.abs(values - values[0]) > tolerance).any(axis=1).sum())
    if others:
        raise InputError(
            f"{case}: slices of several {what} in one series ({others} of {len(values)} unlike the first); "
            "keep one stack of slices"
        )


def _require_directions(row: NDArray, column: NDArray, case: str) -> None:
    products = [row @ row - 1, column @ column - 1, row @ column]
    if not np.isfinite(products).all() or np.abs(products).max() > _DIRECTION_TOLERANCE:
        raise InputError(f"{case}: the slices' directions are not perpendicular unit vectors; export the series again")


def _require_even(heights_mm: NDArray, case: str) -> None:
    """Refuse doubled, missing or unevenly spaced slices, by their sorted heights along the normal."""
    steps = np.diff(heights_mm)
    doubled = int((steps < _PLACE_TOLERANCE_MM / 2).sum())
    if doubled:
        raise InputError(
            f"{case}: {doubled} of {len(heights_mm)} slices are at the position of another slice (copied twice, or "
            "several phases in one series); keep one slice for each place"
        )
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # of two in the middle the smaller: the other has the gap
    tolerance = max(_PLACE_TOLERANCE_MM, _STEP_TOLERANCE * usual)
    grid = np.linspace(heights_mm[0], heights_mm[-1], len(heights_mm))
    if np.abs(heights_mm - grid).max() <= tolerance:
        return
    times = np.rint(steps / usual)
    if times.min() == 1 and times.max() > 1 and (np.abs(steps - times * usual) <= tolerance * times).all():
        raise InputError(
            f"{case}: {int((times - 1).sum())} slices are missing (they are {usual:.4g} mm apart, with a gap of "
            f"{steps.max():.4g} mm); copy the whole series"
        )
    raise InputError(
        f"{case}: slices are unevenly spaced ({steps.min():.4g} to {steps.max():.4g} mm); "
        "keep one stack of slices, or resample it"
    )


def _straight_step(positions_mm: NDArray, normal: NDArray, case: str) -> NDArray:
    """Return the vector from slice to slice, refusing slices that are not stacked along their normal."""
    count = len(positions_mm) - 1
    step = (positions_mm[-1] - positions_mm[0]) / count
    strays = positions_mm - positions_mm[0] - np.outer(np.arange(count + 1), step)
    strays -= np.outer(strays @ normal, normal)
    if np.linalg.norm(strays, axis=1).max() > _PLACE_TOLERANCE_MM:
        raise InputError(f"{case}: slices are shifted against each other in their plane; keep one stack of slices")
    straight = (step @ normal) * normal
    drift = np.linalg.norm(step - straight)
    tilt = drift / np.linalg.norm(step)
    if tilt <= _DIRECTION_TOLERANCE:
        return step
    if drift * count <= _PLACE_TOLERANCE_MM:  # rounded positions of few slices
        return straight
    raise InputError(
        f"{case}: gantry tilt of {np.degrees(np.arcsin(tilt)):.1f} degrees (slices shift as they are stacked); "
        "resample the series to a straight grid"
    )
