"""Checks of volumes before anything is computed on them: every fault is one line, `CASE: cause; way out`.

The lines name cases and label values, never file names or a header's text fields, which may hold a patient's name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from ragsam.data.cards.load import Card
from ragsam.data.checks.label_counts import LabelCounts
from ragsam.data.checks.slab_reader import SlabReader, VolumeKeeper, check_stream, is_one_file, read_slabs
from ragsam.data.datalist import Case
from ragsam.data.label_numbers import told_numbering
from ragsam.errors import InputError
from ragsam.io.grids import Grid, OtherGridError, turn_onto
from ragsam.io.lazy_volume import MAX_SIDE, MAX_VOXELS
from ragsam.io.read_volume import open_volume
from ragsam.transforms.nonfinite import fill_nonfinite as filled

logger = logging.getLogger(__name__)

_AFFINE_TOLERANCE = 1e-3
_SPACING_MM = (0.00999, 100.1)  # from voxel to voxel in a body: beyond, the unit is another
_SMALLEST_DETERMINANT = 1e-3  # of the unit vectors along the axes


@dataclass(frozen=True)
class CaseCheck:
    """What a case's files are like.

    Attributes:
        faults, warnings: lines; a warning stops nothing.
        image, label: the opened volumes, None if they are at fault.
        label_voxels: {card value: number of voxels}, None without a sound label.
    """

    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    image: SpatialImage | None = None
    label: SpatialImage | None = None
    label_voxels: Mapping[int, int] | None = None


def read_volume_checked(path: str | Path, case: str, *, fill_nonfinite: float | None = None) -> SpatialImage:
    """Open a volume after reading its file once in full and checking it; its data are not loaded.

    What is odd without being a fault is a warning, as are NaN and infinite voxels where `fill_nonfinite` is given:
    whoever reads them fills them.

    Raises:
        InputError: as `scan_volume`.
    """
    image, told = scan_volume(path, case, fill_nonfinite=fill_nonfinite)
    tell(told)
    return image


def tell(lines: Iterable[str]) -> None:
    """Send lines of warning to the log, not to `warnings`, which would show where in the source they arise."""
    for line in lines:
        logger.warning("%s", line)


def scan_volume(
    path: str | Path, case: str, *readers: SlabReader, fill_nonfinite: float | None = None, keep: bool = False
) -> tuple[SpatialImage, list[str]]:
    """Check a volume and show its voxels to readers, in one pass over its file.

    gzip's own checksum finds a flipped bit, which nibabel would pass over. Sizes are taken from the header before
    anything is allocated; of a NIfTI file no more than 2**22 voxels (about 100 MB) are held at a time.

    Args:
        readers: what else looks at every voxel; they see filled voxels.
        fill_nonfinite: what NaN and infinite voxels become; None refuses them.
        keep: whether the voxels stay in memory, filled.

    Returns:
        The opened image and lines of warning. Where qform and sform differ the sform is used, with a warning.

    Raises:
        InputError: missing or unreadable file, damaged gzip stream, not three dimensions, no slices, more than
            2**31 voxels or 32767 along a side, a singular or sheared affine, NaN or infinite voxels.
    """
    path = Path(path)
    image = open_volume(path, case)
    keeper = VolumeKeeper()
    if keep:
        readers = (*readers, keeper)
    told = scan_opened(image, path, case, *readers, fill_nonfinite=fill_nonfinite)
    if keep:
        image = keeper.volume()
    return image, told


def scan_opened(
    image: SpatialImage, path: Path, case: str, *readers: SlabReader, fill_nonfinite: float | None = None
) -> list[str]:
    """Do as `scan_volume` with a volume that is opened, or in memory; return the lines of warning."""
    _check_shape(image, case)
    told = [*image.extra.get("warnings", ()), *_check_affine(image, case)]
    if not readers and _must_be_finite(image):
        check_stream(path, image, case)
        return told
    bad = 0
    for reader in readers:
        reader.begin(image)
    for slab in read_slabs(path, image, case):
        voxels = filled(slab.voxels, fill_nonfinite or 0.0)
        if voxels is not slab.voxels:
            bad += np.count_nonzero(~np.isfinite(slab.voxels))
            slab = slab._replace(voxels=voxels)
        for reader in readers:
            reader.add(slab)
    if bad and fill_nonfinite is None:
        way = "export the volume again, or let the datalist fill them (fill_nonfinite)"
        raise InputError(f"{case}: {bad} voxels are NaN or infinite; {way}")
    if bad:
        told.append(f"{case}: {bad} voxels are NaN or infinite; filled with {fill_nonfinite:g}")
    return told


def examine_case(case: Case, card: Card, *readers: SlabReader, keep: bool = False) -> CaseCheck:
    """Check a case's image, and its label where it has one, reading each file once.

    Args:
        readers: what else looks at the image's voxels.
        keep: whether the voxels of image and label stay in memory.
    """
    faults: list[str] = []
    told: list[str] = []
    unknown = ", ".join(filterfalse(card.labels.__contains__, case.annotated or ()))
    if unknown:
        faults.append(f"{case.case}: annotated names {unknown}, not on card {card.name}; correct the datalist")
    image = label = label_voxels = None
    counts = LabelCounts()
    try:
        image, lines = scan_volume(case.image, case.case, *readers, fill_nonfinite=case.fill_nonfinite, keep=keep)
        told += lines
    except InputError as error:
        faults.append(str(error))
    try:
        if case.label is not None:
            label, lines = scan_volume(case.label, f"{case.case} (label)", counts, keep=keep)
            told += lines
    except InputError as error:
        faults.append(str(error))
    if label is not None:
        wrong = [*counts.faults(case.case, card, case.label_map), *_numbering_faults(case, card)]
        if image is not None:
            wrong += _grid_faults(case.case, image, label, told)
        if not wrong:
            label_voxels = counts.on_card(case.label_map)
        faults += wrong
    return CaseCheck(tuple(faults), tuple(told), image, label, label_voxels)


def _numbering_faults(case: Case, card: Card) -> list[str]:
    """Return what the file beside a label volume says against its datalist, a line each."""
    try:
        numbers = told_numbering(case.label, card, case.label_map or card.label_map)
    except InputError as error:
        return [f"{case.case}: {error}"]
    if numbers is None or numbers == ("card" if case.label_map is None else "raw"):
        return []
    if case.label_map is None:
        way_out = "the data set's own; give the datalist the card's label_map, as `ragsam prepare` does"
    else:
        way_out = "the card's; leave label_map out of its datalist"
    return [f"{case.case}: the file beside the label says that its numbers are {way_out}"]


def _grid_faults(case: str, image: SpatialImage, label: SpatialImage, told: list[str]) -> list[str]:
    """Return the fault of a label that is on a different grid from its image; what is turned joins the warnings."""
    try:
        turn = turn_onto(Grid.of(label), Grid.of(image))
    except OtherGridError as error:
        return [f"{case}: the label is not on the image's grid, {error}; export it on the image's"]
    if not turn.is_none:
        told.append(f"{case}: the label's axes are ordered differently from the image's; it is reoriented")
    return []


def missing_label(case: Case, section: str) -> list[str]:
    """Return the fault of a case without a label in a section that needs one."""
    if case.label is not None or section not in ("training", "validation"):
        return []
    return [f"{case.case}: no label, but it is in {section}; add one or move the case to test"]


def require_sound(
    cases: Iterable[Case], card: Card, take: Callable[[int, dict[str, SpatialImage]], None] | None = None
) -> list[set[str]]:
    """Check cases and stop at the end where any has a fault; warnings go to the log.

    Args:
        take: called with the number of each labelled case that is sound, and its volumes by path as "loaded" of
            `LoadVolumed`, so that no file is read again for their voxels; not any more after the first fault.

    Returns:
        Of every case the organs that it both annotates and has a labelled voxel of.

    Raises:
        InputError: the first fault's line, and how many more there are.
    """
    faults: list[str] = []
    told: list[str] = []
    organs: list[set[str]] = []
    for number, case in enumerate(cases):
        check = examine_case(case, card, keep=take is not None and not faults)
        faults += check.faults
        told += check.warnings
        organs.append(_labelled_organs(case, card, check.label_voxels or {}))
        if take is not None and not faults:
            loaded = {str(case.image): check.image, str(case.label): check.label}
            del check  # what is taken out of `loaded` is in memory no longer
            take(number, loaded)
    tell(told)
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        raise InputError(f"{faults[0]} ({len(faults) - 1} more: run `ragsam check`)")
    return organs


def _labelled_organs(case: Case, card: Card, label_voxels: Mapping[int, int]) -> set[str]:
    annotated = card.labels if case.annotated is None else case.annotated
    return {organ for organ in annotated if label_voxels.get(card.labels.get(organ, 0))}


def _check_shape(image: SpatialImage, case: str) -> None:
    shape = tuple(map(int, image.shape))
    dtype = image.get_data_dtype()
    if min(shape, default=1) <= 0:
        raise InputError(f"{case}: shape {shape} has no slices or no voxels; export the volume again")
    if len(shape) != 3:
        raise InputError(f"{case}: shape {shape} is not three-dimensional; give one volume of one channel")
    if max(shape) > MAX_SIDE:
        raise InputError(f"{case}: shape {shape} has a side above {MAX_SIDE}, the most that NIfTI has; cut the volume")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(f"{case}: the header promises {shape} voxels, above 2**31; the file is damaged or too large")
    if dtype.fields:
        raise InputError(f"{case}: voxels have several channels (colour); give one volume of one channel")
    if dtype.kind not in "biuf":
        raise InputError(f"{case}: voxels are no real numbers ({dtype}); export the magnitude")


def _check_affine(image: SpatialImage, case: str) -> list[str]:
    """Refuse an affine that places no straight grid; return the warning of a header that leaves orientation open."""
    affine = image.affine
    if affine is None or not np.isfinite(affine).all():
        raise InputError(f"{case}: the affine holds NaN or infinity; export the volume with its geometry")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(affine[:3, :3] / lengths)) < _SMALLEST_DETERMINANT:
        raise InputError(f"{case}: the affine is singular; export the volume with its geometry")
    if lengths.min() < _SPACING_MM[0] or lengths.max() > _SPACING_MM[1]:
        spacing = " x ".join(f"{length:.3g}" for length in lengths)
        raise InputError(
            f"{case}: voxels of {spacing} mm are no body's; save the volume in millimetres, or say its unit"
        )
    directions = affine[:3, :3] / lengths
    shear = directions.T @ directions - np.eye(3)
    if np.abs(shear).max() > _AFFINE_TOLERANCE:
        raise InputError(f"{case}: the affine is sheared (gantry tilt?); resample the volume to a straight grid")
    header = image.header
    codes = (int(header["qform_code"]), int(header["sform_code"]))
    if max(codes) <= 0:
        taken = "".join(nibabel.aff2axcodes(affine))
        return [f"{case}: the header does not say how the axes lie (qform and sform codes are 0); taken for {taken}"]
    if min(codes) <= 0:
        return []
    try:
        alike = np.allclose(header.get_qform(), header.get_sform(), atol=_AFFINE_TOLERANCE, rtol=0)
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        alike = False
    return [] if alike else [f"{case}: qform and sform differ; the sform is used"]


def _must_be_finite(image: SpatialImage) -> bool:
    """Return whether the voxels are whole numbers; formats other than nibabel's show their damage once decoded."""
    if not is_one_file(image) or not np.issubdtype(image.get_data_dtype(), np.integer):
        return False
    return bool(np.isfinite([image.dataobj.slope, image.dataobj.inter]).all())
