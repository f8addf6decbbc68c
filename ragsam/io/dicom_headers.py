"""What is in a DICOM folder: the headers of its images, by series. No patient's data are kept."""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING, Any

from ragsam.errors import InputError
from ragsam.io.dicom_file import PixelElement, is_dicom_file, read_header

if TYPE_CHECKING:
    from pydicom import Dataset

_TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "Modality", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
)
_UID = re.compile(r"\d+(\.\d+)+")
_SHOWN = 10
_MOST_DAMAGED = 50  # after so many no file is looked at: each may take a tenth of a second
_SUFFIXES = (".dcm", ".dicom", ".ima")
_MOST_ENTRIES = 50_000  # files and folders below one that is taken for DICOM


@dataclass(frozen=True)
class SliceHeader:
    """One image file of a series; geometry that it lacks is None. Units: mm."""

    path: Path
    sop_class: str
    rows: int | None
    columns: int | None
    samples: int | None
    frames: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    thickness: float | None
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    representation: int | None
    photometric: str
    slope: float
    intercept: float
    half_rescaled: bool
    has_lut: bool
    pixels: PixelElement | None
    malformed: tuple[str, ...]

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest value that a pixel can hold, before it is rescaled."""
        lowest = -(2 ** (self.bits_stored - 1)) if self.representation else 0
        return lowest, lowest + 2**self.bits_stored - 1


@dataclass(frozen=True)
class Series:
    """The images of one series, in no order: its Series Instance UID, modality, and a header for each file."""

    uid: str
    modality: str
    headers: tuple[SliceHeader, ...]

    @property
    def slices(self) -> int:
        """Number of image files."""
        return len(self.headers)


def is_dicom_folder(path: Path) -> bool:
    """Return whether a folder, or any below it, holds a DICOM file; FOLDER/UID stands for a series of a folder."""
    folder, _ = split_series(path)
    return folder.is_dir() and any(map(is_dicom_file, _files(_entries(folder))))


def split_series(path: Path) -> tuple[Path, str | None]:
    """Split FOLDER/UID, which names one series of a folder, into both; the UID is None for a folder itself."""
    if not path.exists() and path.parent.is_dir() and _UID.fullmatch(path.name):
        return path.parent, path.name
    return path, None


def list_series(folder: Path, case: str = "DICOM folder") -> list[Series]:
    """Return the image series of a folder and the folders below it, by UID.

    Files that are no images (DICOMDIR, structured reports, RTSTRUCT, segmentations, or no DICOM at all) are skipped.

    Raises:
        InputError: no image at all, a DICOM file that is damaged, or far more files than a case has.
    """
    return scan_folder(folder, case)[0]


def scan_folder(folder: Path, case: str) -> tuple[list[Series], int]:
    """Return the image series as `list_series` does, and how many files were skipped."""
    images, others, damaged = _read_files(folder, case)
    held = {uid for uid, _, header in images if header is not None}
    skipped = others + sum(uid not in held for uid, _, header in images if header is None)
    damaged += sum(uid in held for uid, _, header in images if header is None)
    if damaged:
        count = f"{damaged} or more" if damaged >= _MOST_DAMAGED else damaged
        raise InputError(f"{case}: {count} DICOM files are damaged or cut short; copy the folder again")
    images = [image for image in images if image[2] is not None]
    if not images:
        raise InputError(f"{case}: no DICOM images in the folder ({skipped} other files); check the path")
    images.sort(key=itemgetter(0))
    series = []
    for uid, entries in groupby(images, key=itemgetter(0)):
        _, modalities, headers = zip(*entries, strict=True)
        series.append(Series(uid, mode(modalities), headers))
    return series, skipped


def _read_files(folder: Path, case: str) -> tuple[list[tuple[str, str, SliceHeader | None]], int, int]:
    """Return series, modality and header (None: no image) of each DICOM file, how many others there are and damaged.

    A file that is not DICOM, but has a slice's name, counts as damaged: a series that lacks a slice is not whole.
    """
    images, others = [], []
    damaged = 0
    kinds = set()
    entries = _entries(folder)
    if len(entries) > _MOST_ENTRIES:
        raise InputError(f"{case}: over {_MOST_ENTRIES} files and folders in its folder; name the folder of its series")
    for path in _files(entries):
        try:
            if not is_dicom_file(path):
                others.append(path)
                continue
            images.append(_read_header(path))
            kinds.add(_kind_of_name(path))
        except Exception:  # pydicom has many exceptions, whose texts may hold patient data
            damaged += 1
            if damaged == _MOST_DAMAGED:
                break
    kinds.discard(None)
    lost = sum(path.suffix.lower() in _SUFFIXES or _kind_of_name(path) in kinds for path in others)
    return images, len(others) - lost, damaged + lost


def _kind_of_name(path: Path) -> tuple[Path, str] | None:
    """Return folder and name with each number replaced: what the slices of a series share; None without a number."""
    kind = re.sub(r"\d+", "#", path.name)
    return (path.parent, kind) if "#" in kind else None


def choose_series(series: Sequence[Series], uid: str | None, case: str) -> Series:
    """Return the series asked for, or the only one there is.

    Raises:
        InputError: several series and none asked for, or one that is not there; the message lists them.
    """
    if uid is None and len(series) == 1:
        return series[0]
    by_uid = {one.uid: one for one in series}
    if uid in by_uid:
        return by_uid[uid]
    told = "; ".join(f"{one.uid} ({one.modality}, {one.slices} slices)" for one in series[:_SHOWN])
    if len(series) > _SHOWN:
        told += f"; and {len(series) - _SHOWN} more"
    if uid is not None:
        raise InputError(f"{case}: no series {uid} in the folder; it holds {told}")
    raise InputError(
        f"{case}: {len(series)} DICOM series in the folder: {told}; name one by --series UID, or write FOLDER/UID in "
        "the datalist"
    )


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep warnings of pydicom and highdicom from being reported: they quote the values they find odd."""
    with ExitStack() as undo:
        for name in ("pydicom", "highdicom"):
            logger = logging.getLogger(name)
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder and below it, in order; of too much, such as of a whole disk, only a part."""
    found = (Path(place, name) for place, below, files in os.walk(folder) for name in (*below, *files))
    return sorted(islice(found, _MOST_ENTRIES + 1))


def _files(entries: Sequence[Path]) -> Iterator[Path]:
    visible = (path for path in entries if not path.name.startswith("._"))  # macOS leaves those
    return filter(Path.is_file, visible)


def _read_header(path: Path) -> tuple[str, str, SliceHeader | None]:
    """Return series, modality and header of an image; no header for another DICOM object."""
    with quiet_pydicom():
        data, pixels = read_header(path, _TAGS)
        if not _is_image(data):
            return str(data.get("SeriesInstanceUID", "")), "", None
        malformed: list[str] = []
        header = SliceHeader(
            path=path,
            sop_class=str(data.get("SOPClassUID", "")),
            rows=_number(data, "Rows", int),
            columns=_number(data, "Columns", int),
            samples=_number(data, "SamplesPerPixel", int),
            frames=int(_positive(data, "NumberOfFrames", malformed) or 1),
            position=_numbers(data, "ImagePositionPatient", 3),
            orientation=_numbers(data, "ImageOrientationPatient", 6),
            pixel_spacing=_numbers(data, "PixelSpacing", 2),
            thickness=_positive(data, "SpacingBetweenSlices", malformed)
            or _positive(data, "SliceThickness", malformed),
            bits_allocated=_number(data, "BitsAllocated", int),
            bits_stored=_number(data, "BitsStored", int),
            high_bit=_number(data, "HighBit", int),
            representation=_number(data, "PixelRepresentation", int),
            photometric=str(data.get("PhotometricInterpretation", "")),
            slope=_real(data, "RescaleSlope", 1.0),
            intercept=_real(data, "RescaleIntercept", 0.0),
            half_rescaled=("RescaleSlope" in data) != ("RescaleIntercept" in data),
            has_lut=bool(data.get("ModalityLUTSequence")),
            pixels=pixels,
            malformed=tuple(malformed),
        )
        return str(data.SeriesInstanceUID), str(data.get("Modality") or "no modality"), header


def _is_image(data: Dataset) -> bool:
    """Return whether a file is an image, by its class: one that was cut short has its class still, but no rows.

    Raises:
        ValueError: neither a class nor a series says what it is.
    """
    classes = [uid for uid in (data.file_meta.get("MediaStorageSOPClassUID"), data.get("SOPClassUID")) if uid]
    if any(uid.name.endswith("Image Storage") for uid in classes):
        return True
    if any(uid.name != str(uid) for uid in classes):  # a class that is known
        return False
    if "Rows" not in data and not data.get("SeriesInstanceUID"):
        raise ValueError("neither SOP class nor series")
    return "Rows" in data


def _numbers(data: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    try:
        value: Any = data.get(name)
        if value is None or isinstance(value, str | float) or len(value) != count:
            return None
        numbers = tuple(map(float, value))
    except (TypeError, ValueError):  # no numbers
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _number(data: Dataset, name: str, kind: type) -> Any:
    value = data.get(name)
    return None if value in (None, "") else kind(value)


def _real(data: Dataset, name: str, absent: float) -> float:
    """Return a number, `absent` where its element is missing, NaN where it holds no number."""
    if name not in data:
        return absent
    try:
        return float(data[name].value)
    except (TypeError, ValueError):
        return math.nan


def _positive(data: Dataset, name: str, malformed: list[str]) -> float | None:
    """Return a number that few series need, None if every one is 0; note what is no number."""
    number = _real(data, name, 0.0)
    if not math.isfinite(number) and data.get_item(name).value:
        malformed.append(name)
    return number if 0 < number < math.inf else None
