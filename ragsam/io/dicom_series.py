"""DICOM series as volumes: slices stacked by their headers, pixels decoded and rescaled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from ragsam.errors import InputError
from ragsam.io.dicom_geometry import stack_slices
from ragsam.io.dicom_headers import (
    Series,
    SliceHeader,
    choose_series,
    is_dicom_folder,
    list_series,
    quiet_pydicom,
    split_series,
)
from ragsam.io.dicom_pixels import decode_pixels, require_sound_pixels
from ragsam.io.lazy_volume import lazy_volume, quiet_itk

__all__ = ["is_dicom_folder", "list_series", "read_series", "slice_files", "split_series"]

_ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.130")
_PHYSICAL = ("CT", "PT")  # rescaled to Hounsfield units or activity, however they are displayed
_BLOCK_PIXELS = 1 << 20  # rescaled at a time, in four times the memory of the pixels
_WHOLE_TYPES = (np.uint8, np.int16, np.uint16, np.int32)


def read_series(folder: Path, series: str | None = None, case: str = "DICOM folder") -> nibabel.Nifti1Image:
    """Open a series of a DICOM folder as one volume; pixels are decoded when they are first asked for.

    Args:
        folder: a folder; folders below it are searched too.
        series: Series Instance UID; None takes the only one there is.
        case: how errors name it.

    Returns:
        Voxels (column, row, slice), slices sorted along their normal, rescaled slice by slice (Hounsfield units for
        CT), with the affine to RAS millimetres. MONOCHROME1 of other modalities than CT and PET is inverted, so that
        what is shown bright is high.

    Raises:
        InputError: the choice of a series is open, several frames in a file, colour, no geometry or pixels that do not
            fit together, or slices that make no straight, evenly spaced stack; when voxels are asked for, pixels
            that cannot be decoded.
    """
    chosen, ordered, affine = _stack(folder, series, case)
    shape = (ordered[0].columns, ordered[0].rows, len(ordered))
    dtype = _voxel_type(ordered)
    load = partial(_voxels, ordered, chosen.modality, dtype, case)
    image = lazy_volume(load, shape, dtype, affine, case)
    if malformed := sorted({name for header in ordered for name in header.malformed}):
        image.extra["warnings"] = [f"{case}: {', '.join(malformed)} is not a number; the series is read without it"]
    return image


def slice_files(folder: Path, series: str | None = None, case: str = "DICOM folder") -> list[Path]:
    """Return the files of a series in the order of the slices of `read_series`, which see."""
    _, headers, _ = _stack(folder, series, case)
    return [header.path for header in headers]


def _stack(folder: Path, uid: str | None, case: str) -> tuple[Series, list[SliceHeader], NDArray[np.float64]]:
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise InputError(f"{case}: DICOM needs pydicom; run `pip install pydicom`") from error
    chosen = choose_series(list_series(folder, case), uid, case)
    headers = chosen.headers
    _require_plain(headers, case)
    lacking = 0
    for header in headers:
        geometry = (header.rows, header.columns, header.position, header.orientation, header.pixel_spacing)
        lacking += not all(geometry)
    if lacking:
        raise InputError(
            f"{case}: {lacking} of {len(headers)} images lack rows, position, orientation or pixel spacing; "
            "choose a series of slices, or copy it again"
        )
    require_sound_pixels(headers, case)
    sizes = sorted({(header.columns, header.rows) for header in headers})
    if len(sizes) > 1:
        told = ", ".join(f"{columns} x {rows}" for columns, rows in sizes)
        raise InputError(f"{case}: slices of several sizes in one series ({told}); keep one stack of slices")
    order, affine = stack_slices(
        [header.position for header in headers],
        [header.orientation for header in headers],
        [header.pixel_spacing for header in headers],
        headers[0].thickness,
        case,
    )
    return chosen, [headers[index] for index in order], affine


def _require_plain(headers: Sequence[SliceHeader], case: str) -> None:
    if any(header.frames > 1 or header.sop_class in _ENHANCED for header in headers):
        raise InputError(f"{case}: multi-frame (enhanced) DICOM is not read; export one file a slice, or NIfTI")
    if {header.samples for header in headers} != {1}:
        raise InputError(f"{case}: pixels have several channels (colour), or none; choose a series of one channel")
    slopes = [header.slope for header in headers]
    if any(header.has_lut for header in headers) or 0 in slopes:
        raise InputError(f"{case}: pixels are rescaled by a table or a slope of 0; export plain values")
    if not np.isfinite([*slopes, *(header.intercept for header in headers)]).all():
        raise InputError(f"{case}: RescaleSlope or RescaleIntercept is not a finite number; export the series again")
    if any(header.half_rescaled for header in headers):
        raise InputError(f"{case}: RescaleSlope or RescaleIntercept is missing beside the other; export them both")


def _voxel_type(headers: Sequence[SliceHeader]) -> np.dtype:
    """Return the smallest type that holds every rescaled value exactly: whole numbers, or else float32."""
    factors = {header.slope for header in headers} | {header.intercept for header in headers}
    if not all(map(float.is_integer, factors)):
        return np.dtype(np.float32)
    ends = list(chain.from_iterable(map(_rescaled_range, headers)))
    low = int(min(ends))
    high = int(max(ends))
    for dtype in _WHOLE_TYPES:
        limits = np.iinfo(dtype)
        if limits.min <= low <= high <= limits.max:
            return np.dtype(dtype)
    return np.dtype(np.float32)


def _rescaled_range(header: SliceHeader) -> list[float]:
    """Return the lowest and the highest value that a slice can hold."""
    return sorted(header.slope * end + header.intercept for end in header.stored_range)


def _voxels(headers: Sequence[SliceHeader], modality: str, dtype: np.dtype, case: str) -> NDArray:
    volume = np.empty((headers[0].columns, headers[0].rows, len(headers)), dtype, order="F")
    with quiet_itk(), quiet_pydicom():
        for index, header in enumerate(headers):
            pixels = decode_pixels(header, case)
            rows = max(1, _BLOCK_PIXELS // header.columns)
            for start in range(0, header.rows, rows):
                block = _rescaled(pixels[start : start + rows], header, modality)
                if np.issubdtype(dtype, np.integer):
                    np.rint(block, out=block)
                volume[:, start : start + rows, index] = block.T
    return volume


def _rescaled(pixels: NDArray, header: SliceHeader, modality: str) -> NDArray[np.float64]:
    """Return rows of a slice [rows, columns], rescaled."""
    values = pixels.astype(np.float64)
    if header.photometric == "MONOCHROME1" and modality not in _PHYSICAL:
        values = sum(header.stored_range) - values
    return values * header.slope + header.intercept
