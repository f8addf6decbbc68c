"""DICOM series as volumes: headers by pydicom, pixels decoded by GDCM inside SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from ragsam.errors import InputError
from ragsam.io.dicom_geometry import stack_slices
from ragsam.io.dicom_headers import Series, SliceHeader, choose_series, is_dicom_folder, list_series, split_series
from ragsam.io.lazy_volume import lazy_volume, quiet_itk, simpleitk

__all__ = ["is_dicom_folder", "list_series", "read_series", "slice_files", "split_series"]

_ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.130")
_PHYSICAL = ("CT", "PT")  # rescaled to Hounsfield units or activity, however they are displayed
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
    return lazy_volume(load, shape, dtype, affine, case)


def slice_files(folder: Path, series: str | None = None, case: str = "DICOM folder") -> list[Path]:
    """Return the files of a series in the order of the slices of `read_series`, which see."""
    return [header.path for header in _stack(folder, series, case)[1]]


def _stack(folder: Path, uid: str | None, case: str) -> tuple[Series, list[SliceHeader], NDArray[np.float64]]:
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise InputError(f"{case}: DICOM needs pydicom; run `pip install pydicom`") from error
    chosen = choose_series(list_series(folder, case), uid, case)
    headers = chosen.headers
    _require_single_frames(headers, case)
    _require_alike(headers, case)
    order, affine = stack_slices(
        [header.position for header in headers],
        [header.orientation for header in headers],
        [header.pixel_spacing for header in headers],
        headers[0].thickness,
        case,
    )
    return chosen, [headers[index] for index in order], affine


def _require_single_frames(headers: Sequence[SliceHeader], case: str) -> None:
    if any(header.frames > 1 or header.sop_class in _ENHANCED for header in headers):
        raise InputError(f"{case}: multi-frame (enhanced) DICOM is not read; export one file a slice, or NIfTI")
    if any(header.samples != 1 for header in headers):
        raise InputError(f"{case}: pixels have several channels (colour); choose a series of one channel")
    if any(header.has_lut or not np.isfinite(header.slope) or header.slope == 0 for header in headers):
        raise InputError(f"{case}: pixels are rescaled by a table or a slope of 0; export plain values")


def _require_alike(headers: Sequence[SliceHeader], case: str) -> None:
    whole = [h for h in headers if h.rows and h.columns and h.position and h.orientation and h.pixel_spacing]
    if lacking := len(headers) - len(whole):
        raise InputError(
            f"{case}: {lacking} of {len(headers)} images lack rows, position, orientation or pixel spacing; "
            "choose a series of slices, or copy it again"
        )
    if len(sizes := {(header.columns, header.rows) for header in headers}) > 1:
        told = ", ".join(f"{columns} x {rows}" for columns, rows in sorted(sizes))
        raise InputError(f"{case}: slices of several sizes in one series ({told}); keep one stack of slices")


def _voxel_type(headers: Sequence[SliceHeader]) -> np.dtype:
    """Return the smallest type that holds every rescaled value exactly: whole numbers, or else float32."""
    if any(not float(number).is_integer() for header in headers for number in (header.slope, header.intercept)):
        return np.dtype(np.float32)
    ends = [int(end) for header in headers for end in _rescaled_range(header)]
    for dtype in _WHOLE_TYPES:
        if np.iinfo(dtype).min <= min(ends) and max(ends) <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.float32)


def _rescaled_range(header: SliceHeader) -> tuple[float, float]:
    low = -(2 ** (header.bits_stored - 1)) if header.signed else 0
    ends = [header.slope * end + header.intercept for end in (low, low + 2**header.bits_stored - 1)]
    return min(ends), max(ends)


def _voxels(headers: Sequence[SliceHeader], modality: str, dtype: np.dtype, case: str) -> NDArray:
    volume = np.empty((headers[0].columns, headers[0].rows, len(headers)), dtype, order="F")
    with quiet_itk():
        for index, header in enumerate(headers):
            volume[:, :, index] = _pixels(header, modality, dtype, case)
    return volume


def _pixels(header: SliceHeader, modality: str, dtype: np.dtype, case: str) -> NDArray:
    """Return a slice [columns, rows], rescaled."""
    sitk = simpleitk(case)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(header.path))
    try:
        pixels = sitk.GetArrayFromImage(reader.Execute()).T[:, :, 0]
    except (RuntimeError, IndexError) as error:  # its text holds the file's name
        raise InputError(f"{case}: a slice's pixels cannot be decoded (cut short or damaged); copy it again") from error
    low, high = _rescaled_range(header)
    if header.photometric == "MONOCHROME1" and modality in _PHYSICAL:
        pixels = low + high - pixels.astype(np.float64)  # undoes GDCM's inversion
    if pixels.shape != (header.columns, header.rows) or pixels.min() < low - 1e-3 or pixels.max() > high + 1e-3:
        raise InputError(f"{case}: a slice's pixels do not fit its header; export the series anew")
    return np.rint(pixels) if np.issubdtype(dtype, np.integer) else pixels
