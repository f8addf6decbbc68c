"""Makes small DICOM series of real files, by pydicom; every header names a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

#: Stands in every file. It must not come out again anywhere but in a DICOM segmentation.
DICOM_NAME = "Doe^Jane"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def make_slice(
    pixels: np.ndarray,
    position: Sequence[float] = (0.0, 0.0, 0.0),
    *,
    orientation: Sequence[float] = AXIAL,
    spacing_mm: Sequence[float] = (1.0, 1.0),
    series: str = "1.2.3",
    **values: Any,
) -> FileDataset:
    """Return a CT slice of pixels [rows, columns]; `values` set attributes, None removes one.

    Positions and directions are DICOM's (LPS); `spacing_mm` is between rows, then between columns.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = DICOM_NAME, "JD-0815", "19700101", "F"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.1", series, "1.2.2"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20200101", "120000", "1", "4711"
    data.ReferringPhysicianName, data.Modality, data.SeriesNumber, data.InstanceNumber = "House^Greg", "CT", 1, 1
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.ImagePositionPatient, data.ImageOrientationPatient = decimals(position), decimals(orientation)
    data.PixelSpacing, data.SliceThickness = decimals(spacing_mm), 3.0
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW"
    for name, value in values.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def decimals(numbers: Sequence[float]) -> list[DSfloat]:
    """Return numbers as DICOM's texts hold them: in 16 letters."""
    return [DSfloat(float(number), auto_format=True) for number in numbers]


def write_series(
    folder: Path,
    volume: np.ndarray,
    *,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    orientation: Sequence[float] = AXIAL,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    edit: Callable[[int, FileDataset], None] | None = None,
    **values: Any,
) -> list[Path]:
    """Write a volume [columns, rows, slices] as one file a slice, in a scrambled order of file names.

    Args:
        volume: slices lie along the normal (row direction x column direction).
        origin: LPS, of the first voxel.
        orientation: directions in which the column index and the row index grow.
        spacing_mm: column, row, slice: array order.
        edit: changes a slice before it is written.
        values: see `make_slice`.

    Returns:
        The files, in the order of the slices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    count, files = volume.shape[2], []
    for index in range(count):
        position = np.asarray(origin) + index * spacing_mm[2] * normal
        pixels = np.ascontiguousarray(volume[:, :, index].T)
        in_plane = {"orientation": orientation, "spacing_mm": (spacing_mm[1], spacing_mm[0])}
        data = make_slice(pixels, position, **in_plane, **{"InstanceNumber": index + 1, **values})
        if edit is not None:
            edit(index, data)
        files.append(folder / f"IM{(index * 7 + 3) % 101:04d}")
        data.save_as(files[-1], enforce_file_format=True)
    return files
