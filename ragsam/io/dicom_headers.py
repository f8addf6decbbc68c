"""What is in a DICOM folder: the headers of its images, by series. No patient's data are kept."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragsam.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

_TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    *("BitsStored", "PixelRepresentation", "PhotometricInterpretation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
)
_UID = re.compile(r"\d+(\.\d+)+")
_SHOWN = 10


@dataclass(frozen=True)
class SliceHeader:
    """One image file of a series; geometry that it lacks is None. Units: mm."""

    path: Path
    sop_class: str
    rows: int | None
    columns: int | None
    samples: int
    frames: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    thickness: float | None
    bits_stored: int
    signed: bool
    photometric: str
    slope: float
    intercept: float
    has_lut: bool


@dataclass(frozen=True)
class Series:
    """The images of one series, in no order.

    Attributes:
        uid: Series Instance UID.
        modality: such as CT.
        headers: one a file.
    """

    uid: str
    modality: str
    headers: tuple[SliceHeader, ...]

    @property
    def slices(self) -> int:
        """Number of image files."""
        return len(self.headers)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(columns, rows, slices), by the first image."""
        return (self.headers[0].columns or 0, self.headers[0].rows or 0, self.slices)


def is_dicom_folder(path: Path) -> bool:
    """Return whether a folder, or any below it, holds a DICOM file; FOLDER/UID stands for a series of a folder."""
    folder, _ = split_series(path)
    return folder.is_dir() and any(_is_part10(file) for file in _files(folder))


def split_series(path: Path) -> tuple[Path, str | None]:
    """Split FOLDER/UID, which names one series of a folder, into both; the UID is None for a folder itself."""
    if not path.exists() and path.parent.is_dir() and _UID.fullmatch(path.name):
        return path.parent, path.name
    return path, None


def list_series(folder: Path, case: str = "DICOM folder") -> list[Series]:
    """Return the image series of a folder and the folders below it, by UID.

    Files that are no images (DICOMDIR, structured reports, RTSTRUCT, segmentations, or no DICOM at all) are skipped.

    Raises:
        InputError: no image at all, or a DICOM file that is damaged.
    """
    return scan_folder(folder, case)[0]


def scan_folder(folder: Path, case: str) -> tuple[list[Series], int]:
    """Return the image series as `list_series` does, and how many files were skipped."""
    by_series: dict[str, list[tuple[str, SliceHeader]]] = {}
    skipped = damaged = 0
    for path in _files(folder):
        try:
            found = _read_header(path) if _is_part10(path) else None
        except Exception:  # pydicom has many exceptions, whose texts may hold patient data
            damaged += 1
            continue
        if found is None:
            skipped += 1
        else:
            uid, modality, header = found
            by_series.setdefault(uid, []).append((modality, header))
    if damaged:
        raise InputError(f"{case}: {damaged} DICOM files are damaged or cut short; copy the folder again")
    if not by_series:
        raise InputError(f"{case}: no DICOM images in the folder ({skipped} other files); check the path")
    series = []
    for uid, entries in sorted(by_series.items()):
        modality = Counter(kind for kind, _ in entries).most_common(1)[0][0]
        series.append(Series(uid, modality, tuple(header for _, header in entries)))
    return series, skipped


def choose_series(series: Sequence[Series], uid: str | None, case: str) -> Series:
    """Return the series asked for, or the only one there is.

    Raises:
        InputError: several series and none asked for, or one that is not there; the message lists them.
    """
    if uid is None and len(series) == 1:
        return series[0]
    for one in series:
        if one.uid == uid:
            return one
    told = "; ".join(f"{one.uid} ({one.modality}, {one.slices} slices)" for one in series[:_SHOWN])
    told += f"; and {len(series) - _SHOWN} more" if len(series) > _SHOWN else ""
    if uid is not None:
        raise InputError(f"{case}: no series {uid} in the folder; it holds {told}")
    raise InputError(
        f"{case}: {len(series)} DICOM series in the folder: {told}; name one by --series UID, or write FOLDER/UID in "
        "the datalist"
    )


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep warnings of pydicom and highdicom from being told: they quote the values they find odd."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _is_part10(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_header(path: Path) -> tuple[str, str, SliceHeader] | None:
    """Return series, modality and header of an image, None for another DICOM object."""
    import pydicom

    with quiet_pydicom():
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        if not _is_image(data):
            return None
        slope, intercept = _number(data, "RescaleSlope"), _number(data, "RescaleIntercept")
        header = SliceHeader(
            path=path,
            sop_class=str(data.get("SOPClassUID", "")),
            rows=_whole(data, "Rows"),
            columns=_whole(data, "Columns"),
            samples=_whole(data, "SamplesPerPixel") or 1,
            frames=_whole(data, "NumberOfFrames") or 1,
            position=_numbers(data, "ImagePositionPatient", 3),
            orientation=_numbers(data, "ImageOrientationPatient", 6),
            pixel_spacing=_numbers(data, "PixelSpacing", 2),
            thickness=_number(data, "SpacingBetweenSlices") or _number(data, "SliceThickness"),
            bits_stored=_whole(data, "BitsStored") or 16,
            signed=bool(_whole(data, "PixelRepresentation")),
            photometric=str(data.get("PhotometricInterpretation", "")),
            slope=1.0 if slope is None else slope,
            intercept=0.0 if intercept is None else intercept,
            has_lut=bool(data.get("ModalityLUTSequence")),
        )
        return str(data.SeriesInstanceUID), str(data.get("Modality") or "no modality"), header


def _is_image(data: Dataset) -> bool:
    """Return whether it is an image by its class: a file that was cut short has its class still, but no rows."""
    uid = data.file_meta.get("MediaStorageSOPClassUID") or data.get("SOPClassUID")
    if uid is None:
        raise ValueError("no SOP class")
    return uid.name.endswith("Image Storage") or (uid.is_private and "Rows" in data)


def _numbers(data: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    value: Any = data.get(name)
    if value is None or isinstance(value, str | float) or len(value) != count:
        return None
    numbers = tuple(float(part) for part in value)
    return numbers if all(map(math.isfinite, numbers)) else None


def _number(data: Dataset, name: str) -> float | None:
    value = data.get(name)
    return None if value in (None, "") else float(value)


def _whole(data: Dataset, name: str) -> int | None:
    value = data.get(name)
    return None if value in (None, "") else int(value)
