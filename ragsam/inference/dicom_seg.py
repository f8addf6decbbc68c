"""Label volumes as DICOM segmentations, by highdicom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card, Code, Organ
from ragsam.data.datalist import Case
from ragsam.data.label_numbers import told_numbering
from ragsam.errors import InputError
from ragsam.evaluation.read_labels import read_labels
from ragsam.files import atomic_write
from ragsam.inference.inputs import is_dicom
from ragsam.io.dicom_file import read_header
from ragsam.io.dicom_headers import quiet_pydicom
from ragsam.io.dicom_series import slice_files, split_series

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom import Dataset

SERIES_NUMBER = 1000  # of no scanner's own series
_CATEGORY = Code("SCT", "91723000", "Anatomical Structure")
_PRIVATE_SCHEME = "99RAGSAM"
# Attributes of type 2 that the patient and study modules must have, if only empty.
_MUST_BE_THERE = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_REFERRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")


def require_highdicom() -> ModuleType:
    """Import highdicom; raises InputError where it is not installed."""
    try:
        import highdicom
    except ImportError as error:
        raise InputError("--dicom-seg: highdicom is not installed; run `pip install 'ragsam[dicom]'`") from error
    return highdicom


def require_dicom(cases: Sequence[Case]) -> None:
    """Raise InputError where a segmentation cannot be written: highdicom is missing, or a case is not DICOM."""
    require_highdicom()
    for case in cases:
        if not is_dicom(case):
            raise InputError(f"{case.case}: --dicom-seg needs a DICOM folder; leave it out for other files")


def seg_name(case: str) -> str:
    """Return the name of a case's segmentation file."""
    return f"{case}.seg.dcm"


def write_case_seg(folder: Path, case: Case, card: Card) -> None:
    """Write `CASE.seg.dcm` beside a case's label volume `CASE.nii.gz`; see `write_dicom_seg`."""
    volume = folder / f"{case.case}.nii.gz"
    raw = card.label_map if told_numbering(volume, card, card.label_map) == "raw" else None
    labels = read_labels(volume, case.case, label_map=raw).labels.astype(np.uint8)
    files = slice_files(*split_series(case.image), case.case)
    write_dicom_seg(folder / seg_name(case.case), labels, files, card, case.case)


def write_dicom_seg(
    path: Path,
    labels: NDArray[np.uint8],
    slice_files: Sequence[Path],
    card: Card,
    case: str,
    *,
    every_slice: bool = False,
) -> None:
    """Write a label volume as a DICOM segmentation of a series, whole or not at all.

    It has a binary segment for every organ of the card, on the series' own slices, and carries the patient and study
    of the series, since it belongs to the same record. Its texts are in the series' character set, or in UTF-8 where
    that does not hold the organs' names or needs code extensions.

    Args:
        path: the file to write.
        labels: [columns, rows, slices], uint8, in the order of `slice_files`.
        slice_files: the series' files in slice order, see `ragsam.io.dicom_series.slice_files`.
        card: names and codes of the labels.
        case: how errors name it.
        every_slice: write the frames without a voxel too, for readers that take the frames' extent for the volume's.

    Raises:
        InputError: a series that lacks what a segmentation must refer to, or a file that cannot be written.
        ValueError: labels that are not on the series' grid.

    Source:
        DICOM PS3.3 A.51 (Segmentation IOD).
    """
    if labels.shape[2] != len(slice_files):
        raise ValueError(f"{case}: labels have {labels.shape[2]} slices, the series {len(slice_files)}")
    sources: list[Dataset] = []
    with quiet_pydicom():
        try:
            sources += [_source(file, case) for file in slice_files]
            _align(sources)
            _choose_character_set(sources[0], card)
            segmentation = _segmentation(labels, sources, card, every_slice=every_slice)
            with atomic_write(path) as temporary:
                segmentation.save_as(temporary)
        except InputError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{case}: no DICOM segmentation can be made of this series ({_reason(error, sources)}); leave out "
                "--dicom-seg"
            ) from error


def _source(file: Path, case: str) -> Dataset:
    """Return a slice's header, with empty values for what anonymisers remove though it must be there."""
    data, _ = read_header(file)
    if not data.get("SpecificCharacterSet"):
        data.pop("SpecificCharacterSet", None)
    if lacking := [name for name in _REFERRED if not data.get(name)]:
        raise InputError(
            f"{case}: the series has no {', '.join(lacking)}, which a DICOM segmentation must refer to; leave out "
            "--dicom-seg"
        )
    for name in _MUST_BE_THERE:
        if name not in data:
            setattr(data, name, "")
    return data


def _align(sources: Sequence[Dataset]) -> None:
    """Give slices that make one stack one orientation and pixel spacing: they may differ by rounding."""
    first = sources[0]
    for data in sources[1:]:
        data.ImageOrientationPatient, data.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
    if len(sources) == 1:
        return
    if "SpacingBetweenSlices" in first:
        del first.SpacingBetweenSlices  # highdicom takes it from the positions
    try:
        sound = float(first.SliceThickness) > 0
    except (AttributeError, TypeError, ValueError):
        sound = False
    if not sound:
        step_mm = math.dist(map(float, first.ImagePositionPatient), map(float, sources[1].ImagePositionPatient))
        first.SliceThickness = f"{step_mm:.6g}"


def _choose_character_set(source: Dataset, card: Card) -> None:
    """Decode a header's texts; make its character set UTF-8 for organs beyond ASCII and for code extensions."""
    _drop_malformed(source)
    source.decode()
    codes = [organ.code for organ in card.organs if organ.code is not None]
    codes += [code.modifier for code in codes if code.modifier is not None]
    texts = [card.name, *(organ.name for organ in card.organs), *(code.meaning for code in codes)]
    own = source.get("SpecificCharacterSet") or "ISO_IR 6"
    if isinstance(own, str) and own.startswith("ISO_IR") and "".join(texts).isascii():
        return
    source.SpecificCharacterSet = "ISO_IR 192"


def _drop_malformed(source: Dataset) -> None:
    """Take out elements whose values are not what their kind asks for: what is referred to is known to be sound."""
    for tag in list(source.keys()):
        try:
            element = source[tag]
            for item in element.value if element.VR == "SQ" else ():
                list(item.iterall())
        except Exception:  # pydicom has many
            del source[tag]


def _reason(error: Exception, sources: Sequence[Dataset]) -> str:
    """Return what an error says; its kind alone where that quotes a value of the headers, which may be a patient's."""
    said = " ".join(str(error).split()).rstrip(".")
    try:
        values = {str(element.value) for data in sources for element in data if element.VR != "SQ"}
    except (TypeError, ValueError):
        return type(error).__name__
    return type(error).__name__ if any(len(value) > 2 and value in said for value in values) else said


def _segmentation(
    labels: NDArray[np.uint8], sources: Sequence[Dataset], card: Card, *, every_slice: bool
) -> Segmentation:
    highdicom = require_highdicom()
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=np.ascontiguousarray(labels.transpose(2, 1, 0)),  # [slices, rows, columns]
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(organ) for organ in card.organs],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="RAG-SAM",
        manufacturer_model_name="ragsam",
        software_versions=version("ragsam"),
        device_serial_number="none",
        series_description="RAG-SAM segmentation",
        content_label="SEGMENTATION",
        content_description=f"Organs of card {card.name}"[:64],
        omit_empty_frames=bool(labels.any()) and not every_slice,  # where every frame is empty, they must be there
    )


def _description(organ: Organ) -> SegmentDescription:
    highdicom = require_highdicom()
    concept = _concept(organ.code or Code(_PRIVATE_SCHEME, organ.name, organ.name))
    description = highdicom.seg.SegmentDescription(
        segment_number=organ.value,
        segment_label=_text(organ.name),
        segmented_property_category=_concept(_CATEGORY),
        segmented_property_type=concept,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="RAG-SAM",
            family=_concept(Code("DCM", "123110", "Artificial Intelligence")),
            version=version("ragsam"),
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*organ.colour),
    )
    if organ.code is not None and organ.code.modifier is not None:
        (type_code,) = description.SegmentedPropertyTypeCodeSequence
        type_code.SegmentedPropertyTypeModifierCodeSequence = [_concept(organ.code.modifier)]
    return description


def _concept(code: Code) -> CodedConcept:
    return require_highdicom().sr.CodedConcept(code.value, code.scheme, _text(code.meaning))


def _text(words: str) -> str:
    """Return what a text of DICOM can hold: 64 letters, and no backslash, which separates values."""
    return words.replace("\\", "/")[:64]
