"""Checks of volumes before anything is computed on them: every fault is one line, `CASE: cause; way out`.

The lines name cases and label values, never file names or a header's text fields, which may hold a patient's name.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage

from ragsam.data.cards.load import Card
from ragsam.data.checks.label_counts import LabelCounts
from ragsam.data.checks.slab_reader import SlabReader, check_stream, read_slabs
from ragsam.data.datalist import Case, Datalist
from ragsam.errors import InputError
from ragsam.io.read_volume import open_volume
from ragsam.transforms.nonfinite import fill_nonfinite as filled

logger = logging.getLogger(__name__)

MAX_VOXELS = 2**31
_AFFINE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class CaseCheck:
    """What a case's files are like.

    Attributes:
        faults, warnings: lines; a warning stops nothing.
        image: the opened image, None where it is at fault.
        label_voxels: {card value: number of voxels}, None without a sound label.
    """

    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    image: SpatialImage | None = None
    label_voxels: Mapping[int, int] | None = None


def read_volume_checked(path: str | Path, case: str, *, fill_nonfinite: float | None = None) -> SpatialImage:
    """Open a volume after reading its file once in full and checking it.

    Args:
        path: NIfTI file, `.nii` or `.nii.gz` (or what else `open_volume` reads).
        case: how errors name it.
        fill_nonfinite: given, NaN and infinite voxels are warned of, not refused; whoever reads them fills them.

    Returns:
        The opened image; its data are not loaded. Where qform and sform differ the sform is used, with a warning.

    Raises:
        InputError: as `scan_volume`.
    """
    image, told = scan_volume(path, case, fill_nonfinite=fill_nonfinite)
    for line in told:
        warnings.warn(line, stacklevel=2)
    return image


def scan_volume(
    path: str | Path, case: str, *readers: SlabReader, fill_nonfinite: float | None = None
) -> tuple[SpatialImage, list[str]]:
    """Check a volume and show its voxels to readers, in one pass over its file.

    gzip's own checksum finds a flipped bit, which nibabel would pass over. Sizes are taken from the header before
    anything is allocated; of a NIfTI file no more than 2**22 voxels (about 100 MB) are held at a time.

    Args:
        path: the volume's file.
        case: how errors name it.
        readers: what else looks at every voxel; they see filled voxels.
        fill_nonfinite: what NaN and infinite voxels become; None refuses them.

    Returns:
        The opened image and lines of warning.

    Raises:
        InputError: missing or unreadable file, damaged gzip stream, not three dimensions, no slices, more than
            2**31 voxels, a singular or sheared affine, NaN or infinite voxels.
    """
    image = open_volume(Path(path), case)
    return image, scan_opened(image, Path(path), case, *readers, fill_nonfinite=fill_nonfinite)


def scan_opened(
    image: SpatialImage, path: Path, case: str, *readers: SlabReader, fill_nonfinite: float | None = None
) -> list[str]:
    """Do as `scan_volume` with a volume that is opened, or in memory; return the lines of warning."""
    _check_shape(image, case)
    told, bad = _check_affine(image, case), 0
    if not readers and _must_be_finite(image):
        check_stream(path, image, case)
        return told
    for reader in readers:
        reader.begin(image)
    for slab in read_slabs(path, image, case):
        voxels = filled(slab.voxels, fill_nonfinite or 0.0)
        if voxels is not slab.voxels:
            bad += int(np.count_nonzero(~np.isfinite(slab.voxels)))
            slab = slab._replace(voxels=voxels)
        for reader in readers:
            reader.add(slab)
    if bad and fill_nonfinite is None:
        way = "export the volume anew, or let the datalist fill them (fill_nonfinite)"
        raise InputError(f"{case}: {bad} voxels are NaN or infinite; {way}")
    if bad:
        told.append(f"{case}: {bad} voxels are NaN or infinite; filled with {fill_nonfinite:g}")
    return told


def examine_case(case: Case, card: Card, *readers: SlabReader) -> CaseCheck:
    """Check a case's image, and its label where it has one, reading each file once.

    Args:
        case: as the datalist has it.
        card: says which label values there may be.
        readers: what else looks at the image's voxels.
    """
    faults = _annotation_faults(case, card)
    told: list[str] = []
    label, label_voxels, values = None, None, LabelCounts()
    image = _scan(case.image, case.case, faults, told, *readers, fill_nonfinite=case.fill_nonfinite)
    if case.label is not None:
        label = _scan(case.label, f"{case.case} (label)", faults, told, values)
    if label is not None:
        wrong = values.faults(case.case, card, case.label_map)
        wrong += _geometry_faults(case.case, image, label) if image is not None else []
        label_voxels = None if wrong else values.on_card(case.label_map)
        faults += wrong
    return CaseCheck(tuple(faults), tuple(told), image, label_voxels)


def check_case(case: Case, card: Card) -> list[str]:
    """Return every fault of a case, one line each; an empty list for a sound one. See `examine_case`."""
    return list(examine_case(case, card).faults)


def missing_label(case: Case, section: str) -> list[str]:
    """Return the fault of a case without a label in a section that needs one."""
    if case.label is not None or section not in ("training", "validation"):
        return []
    return [f"{case.case}: no label, but it is in {section}; add one or move the case to test"]


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
            faults += missing_label(case, section) + check_case(case, card)
    return faults


def require_sound(cases: Iterable[Case], card: Card) -> None:
    """Check cases and stop at the end where any has a fault; warnings go to the log.

    Raises:
        InputError: the first fault's line, and how many more there are.
    """
    checks = [examine_case(case, card) for case in cases]
    for line in (line for check in checks for line in check.warnings):
        logger.warning("%s", line)
    faults = [fault for check in checks for fault in check.faults]
    if faults:
        more = f" ({len(faults) - 1} more: run `ragsam check`)" if len(faults) > 1 else ""
        raise InputError(faults[0] + more)


def _scan(
    path: Path, name: str, faults: list[str], told: list[str], *readers: SlabReader, fill_nonfinite: float | None = None
) -> SpatialImage | None:
    """Scan a volume; a fault becomes a line."""
    try:
        image, lines = scan_volume(path, name, *readers, fill_nonfinite=fill_nonfinite)
    except InputError as error:
        faults.append(str(error))
        return None
    told += lines
    return image


def _check_shape(image: SpatialImage, case: str) -> None:
    shape = tuple(int(n) for n in image.shape)
    if any(n <= 0 for n in shape):
        raise InputError(f"{case}: shape {shape} has no slices or no voxels; export the volume anew")
    if len(shape) != 3:
        raise InputError(f"{case}: shape {shape} is not three-dimensional; give one volume of one channel")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise InputError(f"{case}: the header promises {shape} voxels, above 2**31; the file is damaged or too large")
    if image.get_data_dtype().fields:
        raise InputError(f"{case}: voxels have several channels (colour); give one volume of one channel")
    if image.get_data_dtype().kind not in "biuf":
        raise InputError(f"{case}: voxels are no real numbers ({image.get_data_dtype()}); export the magnitude")


def _check_affine(image: SpatialImage, case: str) -> list[str]:
    """Refuse an affine that places no straight grid; return the warning of a qform unlike the sform."""
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
    return [f"{case}: qform and sform differ; the sform is used"] if _forms_differ(image) else []


def _forms_differ(image: SpatialImage) -> bool:
    header = image.header
    if "qform_code" not in header or header["qform_code"] <= 0 or header["sform_code"] <= 0:
        return False
    try:
        return not np.allclose(header.get_qform(), header.get_sform(), atol=_AFFINE_TOLERANCE, rtol=0)
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return True


def _must_be_finite(image: SpatialImage) -> bool:
    """Return whether the voxels are whole numbers; formats other than nibabel's show their damage once decoded."""
    if not isinstance(image.dataobj, ArrayProxy) or not np.issubdtype(image.get_data_dtype(), np.integer):
        return False
    return bool(np.isfinite(image.dataobj.slope) and np.isfinite(image.dataobj.inter))


def _annotation_faults(case: Case, card: Card) -> list[str]:
    unknown = [organ for organ in case.annotated or () if organ not in card.labels]
    if not unknown:
        return []
    return [f"{case.case}: annotated names {', '.join(unknown)}, not on card {card.name}; mend the datalist"]


def _geometry_faults(case: str, image: SpatialImage, label: SpatialImage) -> list[str]:
    if image.shape != label.shape:
        return [f"{case}: image is {image.shape}, label is {label.shape}; export the label on the image's grid"]
    worst = float(np.abs(image.affine - label.affine).max())
    if worst > _AFFINE_TOLERANCE:
        return [f"{case}: affines of image and label differ by {worst:.3g}; export the label on the image's grid"]
    return []
