"""Checks of volumes before anything is computed on them: every fault is one line, `CASE: cause; way out`.

The lines name cases and label values, never file names or a header's text fields, which may hold a patient's name.
"""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ragsam.data.cards import Card
from ragsam.data.datalist import Case, Datalist
from ragsam.errors import InputError

MAX_VOXELS = 2**31
_AFFINE_TOLERANCE = 1e-3
_LABEL_TOLERANCE = 1e-3
_CHUNK_BYTES = 1 << 20
_UNKNOWN_LIMIT_BYTES = 1 << 30  # read of a packed file whose header says nothing
_CHUNK_VOXELS = 1 << 24


def read_volume_checked(path: str | Path, case: str) -> SpatialImage:
    """Open a volume after reading its file once in full and checking it.

    The file is read in pieces: gzip's own checksum finds a flipped bit, which nibabel would pass over. Sizes are
    taken from the header before anything is allocated, and voxels are looked at a few slices at a time.

    Args:
        path: NIfTI file, `.nii` or `.nii.gz` (or what else nibabel reads).
        case: how errors name it.

    Returns:
        The opened image; its data are not loaded. Where qform and sform differ the sform is used, with a warning.

    Raises:
        InputError: missing or unreadable file, damaged gzip stream, not three dimensions, no slices, more than
            2**31 voxels, a singular or sheared affine, NaN or infinite voxels.
    """
    image = _open(Path(path), case)
    array_bytes = _check_shape(image, case)
    _check_affine(image, case)
    _check_stream(Path(path), case, array_bytes)
    if bad := _count_not_finite(image, case):
        raise InputError(f"{case}: {bad} voxels are NaN or infinite; fill them or export the volume anew")
    return image


def check_case(case: Case, card: Card) -> list[str]:
    """Return every fault of a case, one line each; an empty list for a sound one.

    Args:
        case: its image is checked, and its label where it has one.
        card: says which label values there may be.
    """
    faults, images = [], []
    unknown = [organ for organ in case.annotated or () if organ not in card.labels]
    if unknown:
        faults.append(f"{case.case}: annotated names {', '.join(unknown)}, not on card {card.name}; mend the datalist")
    for path in (case.image, case.label):
        if path is None:
            continue
        try:
            images.append(read_volume_checked(path, case.case if path is case.image else f"{case.case} (label)"))
        except InputError as error:
            faults.append(str(error))
    if case.label is not None and len(images) == 2:
        faults += _geometry_faults(case.case, images[0], images[1])
        faults += _label_faults(case.case, images[1], card)
    return faults


def check_datalist(datalist: Datalist, card: Card, sections: Sequence[str] | None = None) -> list[str]:
    """Return every fault of every case; cases for training and validation must have a label.

    Args:
        datalist: as loaded.
        card: the datalist's card.
        sections: names of the sections to check, all for None; one that the datalist lacks is a fault.
    """
    faults = []
    for section in datalist.sections if sections is None else sections:
        try:
            cases = datalist.sections[section] if sections is None else datalist.section(section)
        except InputError as error:
            faults.append(str(error))
            continue
        for case in cases:
            if case.label is None and section in ("training", "validation"):
                faults.append(f"{case.case}: no label, but it is in {section}; add one or move the case to test")
            faults += check_case(case, card)
    return faults


def require_sound(cases: Iterable[Case], card: Card) -> None:
    """Check cases and stop at the end where any has a fault.

    Raises:
        InputError: the first fault's line, and how many more there are.
    """
    faults = [fault for case in cases for fault in check_case(case, card)]
    if faults:
        more = f" ({len(faults) - 1} more: run `ragsam check`)" if len(faults) > 1 else ""
        raise InputError(faults[0] + more)


def _open(path: Path, case: str) -> SpatialImage:
    if not path.is_file():
        raise InputError(f"{case}: no such file; check its path in the datalist")
    if path.stat().st_size == 0:
        raise InputError(f"{case}: the file is empty; export or copy it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = nibabel.load(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, PermissionError) else "damaged or cut short"
        raise InputError(f"{case}: the file cannot be read ({reason}); copy it again") from error
    except Exception as error:  # nibabel has many exceptions for headers it cannot make sense of
        if path.suffix == ".gz":
            _unpacked_bytes(path, case, limit=_UNKNOWN_LIMIT_BYTES)  # tells damage apart from a foreign file
        kind = type(error).__name__
        raise InputError(f"{case}: the file is no volume that can be read ({kind}); convert it to NIfTI") from error
    if not isinstance(image, SpatialImage):
        raise InputError(f"{case}: the file is not a volume; convert it to NIfTI")
    return image


def _check_shape(image: SpatialImage, case: str) -> int:
    """Return the bytes that header and voxels take in the (unpacked) file."""
    shape = tuple(int(n) for n in image.shape)
    if any(n <= 0 for n in shape):
        raise InputError(f"{case}: shape {shape} has no slices or no voxels; export the volume anew")
    if len(shape) != 3:
        raise InputError(f"{case}: shape {shape} is not three-dimensional; give one volume of one channel")
    voxels = int(np.prod(shape, dtype=object))
    if voxels > MAX_VOXELS:
        raise InputError(f"{case}: the header promises {shape} voxels, above 2**31; the file is damaged or too large")
    offset = getattr(image.dataobj, "offset", 0)
    if image.get_data_dtype().fields:
        raise InputError(f"{case}: voxels have several channels (colour); give one volume of one channel")
    return int(offset) + voxels * image.get_data_dtype().itemsize


def _check_affine(image: SpatialImage, case: str) -> None:
    affine = image.affine
    if affine is None or not np.isfinite(affine).all():
        raise InputError(f"{case}: the affine holds NaN or infinity; export the volume with its geometry")
    columns = affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if lengths.min() < 1e-6 or abs(np.linalg.det(columns / lengths)) < 1e-3:
        raise InputError(f"{case}: the affine is singular; export the volume with its geometry")
    angles = (columns / lengths).T @ (columns / lengths) - np.eye(3)
    if np.abs(angles).max() > _AFFINE_TOLERANCE:
        raise InputError(f"{case}: the affine is sheared (gantry tilt?); resample the volume to a straight grid")
    header = image.header
    if "qform_code" in header and header["qform_code"] > 0 and header["sform_code"] > 0:
        try:
            differs = not np.allclose(header.get_qform(), header.get_sform(), atol=_AFFINE_TOLERANCE, rtol=0)
        except (ValueError, nibabel.spatialimages.HeaderDataError):
            differs = True
        if differs:
            warnings.warn(f"{case}: qform and sform differ; the sform is used", stacklevel=3)


def _check_stream(path: Path, case: str, needed_bytes: int) -> None:
    """Refuse a file that holds fewer bytes than its header needs, or far more (a header extension takes some)."""
    if path.suffix == ".gz":
        size = _unpacked_bytes(path, case, limit=2 * needed_bytes + (1 << 24))
    elif path.suffix == ".nii":
        size = path.stat().st_size
    else:
        return
    if size < needed_bytes:
        raise InputError(f"{case}: the file is cut short (voxels are missing); copy it again")


def _unpacked_bytes(path: Path, case: str, *, limit: int) -> int:
    """Read a gzip file to its end in pieces; gzip itself checks length and checksum there."""
    size = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > limit:
                    raise InputError(f"{case}: the file unpacks to more than its header says; copy it again")
    except EOFError as error:
        raise InputError(f"{case}: the file is cut short (gzip ends early); copy it again") from error
    except (OSError, zlib.error) as error:
        raise InputError(f"{case}: the file is damaged or not packed by gzip; copy it again") from error
    return size


def _slabs(image: SpatialImage) -> Iterable[NDArray]:
    """The voxels, scaled, a few slices at a time, so that memory stays bounded."""
    depth = image.shape[2]
    step = max(1, _CHUNK_VOXELS // max(1, image.shape[0] * image.shape[1]))
    for start in range(0, depth, step):
        yield np.asarray(image.dataobj[:, :, start : start + step])


def _count_not_finite(image: SpatialImage, case: str) -> int:
    if np.issubdtype(image.get_data_dtype(), np.integer) and _scale_is_finite(image):
        return 0
    try:
        return sum(int(np.count_nonzero(~np.isfinite(slab))) for slab in _slabs(image))
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{case}: voxels cannot be read; copy the file again") from error


def _scale_is_finite(image: SpatialImage) -> bool:
    slope, inter = getattr(image.dataobj, "slope", 1.0), getattr(image.dataobj, "inter", 0.0)
    return bool(np.isfinite(slope) and np.isfinite(inter))


def _geometry_faults(case: str, image: SpatialImage, label: SpatialImage) -> list[str]:
    if image.shape != label.shape:
        return [f"{case}: image is {image.shape}, label is {label.shape}; export the label on the image's grid"]
    worst = float(np.abs(image.affine - label.affine).max())
    if worst > _AFFINE_TOLERANCE:
        return [f"{case}: affines of image and label differ by {worst:.3g}; export the label on the image's grid"]
    return []


def _label_faults(case: str, label: SpatialImage, card: Card) -> list[str]:
    values: set[int] = set()
    broken, example = 0, 0.0
    for slab in _slabs(label):
        whole = np.rint(slab)
        off = np.abs(slab - whole) > _LABEL_TOLERANCE
        if off.any():
            broken, example = broken + int(off.sum()), float(slab[off][0])
        values.update(int(value) for value in np.unique(whole[~off]))
    if broken:
        return [f"{case}: {broken} label voxels are no whole numbers (such as {example:.3g}); export labels unsmoothed"]
    unknown = sorted(values - {0, *card.labels.values()})
    if unknown:
        shown = ", ".join(map(str, unknown[:10])) + (" ..." if len(unknown) > 10 else "")
        return [f"{case}: label {shown} is not on card {card.name} (0-{card.num_classes}); map it or take another card"]
    return []
