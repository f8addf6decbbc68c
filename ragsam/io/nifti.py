"""NIfTI files, by their content, in millimetres.

Their headers are read by nibabel, whose own opening goes by a file's name, passes over units, and logs
what it corrects.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from ragsam.errors import InputError
from ragsam.io.gzip_stream import is_packed, open_unpacked, reading, unpacked_bytes

#: The fields that say where voxels lie, in which unit; beside them the voxel sizes and qfac, `pixdim[:4]`.
_PLACE_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_LENGTH_FIELDS = ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
_SPATIAL_UNITS = 7  # the bits of xyzt_units
_MM = 2
_MM_BY_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # of an unknown unit millimetres, as every reader takes it
_KINDS = (Nifti1Image, Nifti2Image)
_HEADER_BYTES = Nifti2Header.sizeof_hdr
_UNKNOWN_LIMIT_BYTES = 1 << 30  # read of a packed file whose header says nothing
_MOST_EXTENSION_BYTES = 1 << 28  # before the voxels
_ANALYZE = "an Analyze image does not tell left from right; convert it to NIfTI"
_SILENT = logging.Logger("silent", level=logging.CRITICAL + 1)
_STORED = "stored_header"


class _UnpackedProxy(ArrayProxy):
    """Voxels in a file whose content, not its name, says whether it is packed."""

    @contextmanager
    def _get_fileobj(self) -> Iterator[BinaryIO]:
        with open_unpacked(Path(self.file_like)) as stream:
            yield stream


def open_nifti(path: Path, case: str) -> Nifti1Image:
    """Open a NIfTI-1 or NIfTI-2 file by its header; its voxels are not loaded.

    Returns:
        As `nifti_volume`. Its affine is the sform, without one the qform, without both what nibabel makes of the
        voxel sizes.

    Raises:
        InputError: no NIfTI, a damaged or cut file, a header that does not make sense, or as `nifti_volume`.
    """
    if path.suffix.lower() in (".hdr", ".img"):
        return _open_pair(path, case)
    with reading(case), open_unpacked(path) as stream:
        block = stream.read(_HEADER_BYTES)
    kinds = [kind for kind in _KINDS if kind.header_class.may_contain_header(block)]
    if not kinds:
        raise _foreign(path, case)
    header_class = kinds[0].header_class
    with _sense(case):
        header = header_class(block[: header_class.sizeof_hdr], check=False)
        header.check_fix(logger=_SILENT, error_level=40)
        _check_values(header, case)
        voxels = _UnpackedProxy(str(path), header.copy())
        return nifti_volume(kinds[0], voxels, header.get_best_affine(), header, case)


def nifti_volume(
    kind: type[Nifti1Pair], voxels: Any, affine: NDArray[np.float64], header: Nifti1Header, case: str
) -> Nifti1Image:
    """Return voxels and their header as an image in millimetres, without axes of one voxel behind the third.

    The header as it was stays with the image where it is in another unit: see `stored_header`.

    Raises:
        InputError: a unit that NIfTI has not, or an affine that is not finite.
    """
    unit = _unit(header)
    if unit not in _MM_BY_UNIT:
        raise InputError(f"{case}: its header gives lengths in unit {unit}, unknown to NIfTI; save it in millimetres")
    extra = {}
    factor = _MM_BY_UNIT[unit]
    if factor != 1:
        extra[_STORED] = header.copy()
        affine = np.diag([factor, factor, factor, 1.0]) @ affine
        header = header.copy()
        header["pixdim"][1:4] *= factor
        for name in _LENGTH_FIELDS:
            header[name] = header[name] * factor
        header["xyzt_units"] = int(header["xyzt_units"]) - unit + _MM
    if not np.isfinite(affine).all():
        raise InputError(f"{case}: the affine holds NaN or infinity; export the volume with its geometry")
    shape = tuple(voxels.shape)
    if len(shape) > 3 and set(shape[3:]) == {1}:
        voxels = voxels.reshape(shape[:3])
    return kind(voxels, affine, header, extra=extra)


def volume_of_nibabel(image: SpatialImage, case: str) -> Nifti1Image:
    """Return an image in memory as `nifti_volume`; one of a different format from NIfTI keeps its voxels and affine.

    Raises:
        InputError: no affine, an Analyze image, or as `nifti_volume`.
    """
    if image.affine is None:
        raise InputError(f"{case}: the image has no affine; give it the geometry of its file")
    if isinstance(image, Nifti1Pair):
        volume = nifti_volume(type(image), image.dataobj, image.affine, image.header, case)
    elif isinstance(image, AnalyzeImage):
        raise InputError(f"{case}: {_ANALYZE}")
    else:
        volume = Nifti1Image(image.dataobj, image.affine, dtype=image.get_data_dtype())
        volume.header.set_xyzt_units("mm")
    volume.file_map = image.file_map
    return volume


def mm_per_unit(header: Nifti1Header) -> float:
    """Return how many millimetres a header's unit of length has."""
    return _MM_BY_UNIT[_unit(header)]


def _unit(header: Nifti1Header) -> int:
    return int(header["xyzt_units"]) & _SPATIAL_UNITS


def stored_header(image: SpatialImage) -> Nifti1Header:
    """Return the header with the geometry that an image's file has."""
    return image.extra.get(_STORED, image.header)


def copy_place(source: Nifti1Header, target: Nifti1Header) -> None:
    """Give a header another one's geometry to the bit: both codes, both matrices, voxel sizes and unit."""
    target["pixdim"][:4] = source["pixdim"][:4]
    for name in _PLACE_FIELDS:
        target[name] = source[name]


def _open_pair(path: Path, case: str) -> Nifti1Image:
    """Open `.hdr` and `.img`, unpacked, by nibabel."""
    with _sense(case), reading(case), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = nibabel.load(path)
        if not isinstance(image, Nifti1Pair):
            raise InputError(f"{case}: {_ANALYZE}")
        return nifti_volume(type(image), image.dataobj, image.affine, image.header, case)


def _check_values(header: Nifti1Header, case: str) -> None:
    """Refuse what would leave the voxels' place in the file, or their values, open."""
    if header["magic"] != header.single_magic:
        raise InputError(f"{case}: a header with its voxels in another file; save both as one .nii.gz")
    offset = header.get_data_offset()
    if offset > _MOST_EXTENSION_BYTES:
        raise InputError(f"{case}: by its header the voxels start at byte {offset}; the file is damaged")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and slope != 0 and not np.isfinite(intercept):
        what = f"its header adds {intercept} to the voxels (scl_inter), so that their values are unknown"
        raise InputError(f"{case}: {what}; export the volume again")


@contextmanager
def _sense(case: str) -> Iterator[None]:
    """Raise what nibabel says of a header that it can make no sense of as InputError."""
    try:
        yield
    except InputError:
        raise
    except HeaderDataError as error:
        raise InputError(f"{case}: its header is damaged ({error}); export the volume again") from error
    except Exception as error:  # nibabel has many exceptions for what it does not expect
        raise InputError(f"{case}: its header makes no sense ({error}); export the volume again") from error


def _foreign(path: Path, case: str) -> InputError:
    """Return the error of a file that is no NIfTI: damaged, cut short, or of another format."""
    if is_packed(path):
        unpacked_bytes(path, case, limit=_UNKNOWN_LIMIT_BYTES)  # raises where there is damage
    elif path.name.lower().endswith(".gz"):
        return InputError(f"{case}: the file is damaged or not packed by gzip; copy it again")
    return InputError(f"{case}: the file cannot be read as a volume; convert it to NIfTI")
