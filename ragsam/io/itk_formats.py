"""MetaImage and NRRD files through SimpleITK: the header first, the voxels when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from ragsam.errors import InputError
from ragsam.io.lazy_volume import lazy_volume, quiet_itk, simpleitk

_PIXEL_TYPES = {
    "sitkInt8": np.int8,
    "sitkUInt8": np.uint8,
    "sitkInt16": np.int16,
    "sitkUInt16": np.uint16,
    "sitkInt32": np.int32,
    "sitkUInt32": np.uint32,
    "sitkInt64": np.int64,
    "sitkUInt64": np.uint64,
    "sitkFloat32": np.float32,
    "sitkFloat64": np.float64,
}
_UNIT_KEY = re.compile(r"ITK_VoxelUnits|NRRD_units\[[0-2]\]")
_MILLIMETRES = {"", "?", "mm", "millimeter", "millimeters", "millimetre", "millimetres"}
_TEXT_HEADER_BYTES = 1 << 16
_DEFLATE_LIMIT = 1032  # deflate packs no byte sequence closer than this


def open_itk(path: Path, case: str) -> nibabel.Nifti1Image:
    """Open a `.mha`, `.mhd` or `.nrrd` file; its voxels are read when they are first asked for.

    Args:
        path: the file.
        case: how errors name it.

    Returns:
        The volume in RAS millimetres. Without an orientation of its own a file is taken for LPS, as ITK does.

    Raises:
        InputError: no such format, a unit other than millimetres, which ITK ignores, not three dimensions, several
            channels, a header that promises more than the file can hold or more than 2**31 voxels; when voxels are
            asked for, a file that is cut short.
    """
    sitk = simpleitk(case)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:  # its text holds the file's name
        raise InputError(f"{case}: ITK cannot read the file as a volume; copy it again or make it NIfTI") from error
    if not _in_millimetres(path, reader):
        raise InputError(f"{case}: its header gives lengths in a unit other than mm; save the volume in millimetres")
    shape = _without_single_axes(reader.GetSize())
    if len(shape) != 3:
        raise InputError(f"{case}: shape {shape} is not three-dimensional; give one volume of one channel")
    dtype = {getattr(sitk, name): kind for name, kind in _PIXEL_TYPES.items()}.get(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or dtype is None:
        raise InputError(f"{case}: voxels have several channels (colour); give one volume of one channel")
    needed_bytes = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    if path.suffix.lower() != ".mhd" and path.stat().st_size * _DEFLATE_LIMIT < needed_bytes:
        raise InputError(f"{case}: the header promises {shape} voxels, more than the file holds; copy it again")
    return lazy_volume(partial(_voxels, path, shape, case), shape, dtype, _lps_affine(reader), case)


def volume_of_itk(image: Any, case: str) -> nibabel.Nifti1Image:
    """Return an image of SimpleITK in RAS millimetres, its voxels copied.

    Raises:
        InputError: not three dimensions, or several channels.
    """
    sitk = simpleitk(case)
    shape = _without_single_axes(image.GetSize())
    if len(shape) != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{case}: not three dimensions of one channel; give one volume of one channel")
    voxels = sitk.GetArrayFromImage(image).T.reshape(shape, order="F")
    return lazy_volume(lambda: voxels, shape, voxels.dtype, _lps_affine(image), case)


def _voxels(path: Path, shape: tuple[int, ...], case: str) -> NDArray:
    sitk = simpleitk(case)
    try:
        with quiet_itk():
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
            array = array.reshape(_without_single_axes(array.shape), order="F")
    except RuntimeError as error:
        raise InputError(f"{case}: voxels cannot be read (cut short or damaged); copy the file again") from error
    if array.shape != shape:
        raise InputError(f"{case}: the file changed while it was read; try again")
    return array


def _in_millimetres(path: Path, reader: Any) -> bool:
    """Return whether no unit of a header is another than millimetres; one without a unit is in those."""
    units = [reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if _UNIT_KEY.fullmatch(key)]
    with path.open("rb") as file:
        head = file.read(_TEXT_HEADER_BYTES)
    if head.startswith(b"NRRD"):  # of these ITK does not tell the units of the space
        head = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode(errors="replace")
        for line in re.findall(r"(?im)^space units:(.*)$", head):
            units += re.findall(r'"([^"]*)"', line)
    return {unit.strip().lower() for unit in units} <= _MILLIMETRES


def _without_single_axes(size: Sequence[int]) -> tuple[int, ...]:
    """Return a size as a shape, without axes of one voxel behind the third."""
    shape = tuple(map(int, size))
    return shape[:3] if set(shape[3:]) == {1} else shape


def _lps_affine(reader: object) -> NDArray[np.float64]:
    axes = reader.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3] * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return affine
