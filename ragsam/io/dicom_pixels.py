"""Pixels of DICOM slices: whether header and pixels agree, and their stored values decoded within bounds."""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragsam.errors import InputError
from ragsam.io.dicom_file import BIG_ENDIAN, DEFLATED, PixelElement, read_pixel_bytes
from ragsam.io.dicom_headers import SliceHeader
from ragsam.io.lazy_volume import simpleitk

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED)
_RLE = "1.2.840.10008.1.2.5"
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_SMALL_BYTES = 1 << 28  # a volume up to this may be packed as closely as can be
_MOST_RATIO = 100  # no image of a body is packed more closely; a bomb is


def require_sound_pixels(headers: Sequence[SliceHeader], case: str) -> None:
    """Raise InputError where a slice's pixel format is invalid, or its pixels cannot be what the header promises."""
    faults = [fault for header in headers if (fault := _fault(header))]
    if faults:
        told = f"{len(faults)} of {len(headers)} slices: {faults[0]}"
        raise InputError(f"{case}: {told}; export or copy the series again")
    packed = [header for header in headers if header.pixels.syntax not in _NATIVE or header.pixels.deflated_at]
    needed = sum(map(_value_bytes, packed))
    stored = sum(header.path.stat().st_size for header in packed)
    if needed > max(_SMALL_BYTES, _MOST_RATIO * stored):
        raise InputError(
            f"{case}: the headers promise {needed >> 20} MiB of pixels, which {stored >> 10} KiB of files cannot hold; "
            "export the series again"
        )


def decode_pixels(header: SliceHeader, case: str) -> NDArray:
    """Return a sound slice's stored values [rows, columns], not rescaled.

    Raises:
        InputError: pixels that are cut short, damaged or do not fit the header.
    """
    try:
        value = read_pixel_bytes(header.path, header.pixels)
        if header.pixels.syntax in _NATIVE:
            return _native(header, value)
        pixels = _unpacked(header, _codestream(value), case)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, IndexError, struct.error, zlib.error) as error:  # texts have file names
        raise InputError(f"{case}: a slice's pixels cannot be decoded (cut short or damaged); copy it again") from error
    low, high = header.stored_range
    if pixels.shape != (header.rows, header.columns) or pixels.min() < low or pixels.max() > high:
        raise InputError(f"{case}: a slice's pixels do not fit its header; export the series again")
    return pixels


def _fault(header: SliceHeader) -> str | None:
    """Return what is wrong with a slice's pixels, by its header alone."""
    pixels = header.pixels
    if pixels is None:
        return "no pixels in the file, which may be cut short"
    if pixels.keyword != "PixelData":
        return f"pixels are floating-point numbers ({pixels.keyword}), which are not read"
    allocated, stored, high = header.bits_allocated, header.bits_stored, header.high_bit
    if allocated not in (8, 16, 32) or stored is None or not 0 < stored <= allocated:
        return f"BitsAllocated {allocated} and BitsStored {stored} make no pixel format"
    if high not in (None, stored - 1):
        return f"HighBit {high} contradicts BitsStored {stored}, by which it is {stored - 1}"
    if header.representation not in (0, 1):
        return f"PixelRepresentation is {header.representation}, neither 0 (unsigned) nor 1 (signed)"
    if header.photometric not in _MONOCHROME:
        return "PhotometricInterpretation is not MONOCHROME1 or MONOCHROME2"
    if pixels.syntax in _NATIVE:
        return _length_fault(header, pixels)
    if pixels.syntax not in (_RLE, *_JPEG, *_JPEG_2000):
        return "pixels have a transfer syntax that ragsam does not read"
    return None if pixels.length is None else "pixels are not in the fragments that the transfer syntax asks for"


def _length_fault(header: SliceHeader, pixels: PixelElement) -> str | None:
    needed = _value_bytes(header)
    size = f"{header.columns} x {header.rows} of {header.bits_allocated} bits"
    if pixels.length not in (needed, needed + needed % 2):
        length = "no length" if pixels.length is None else f"{pixels.length} bytes"
        return f"PixelData has {length}, {size} need {needed}"
    held = header.path.stat().st_size - pixels.offset
    if pixels.deflated_at is None and held < needed:
        return f"PixelData is cut short, {held} of {needed} bytes"
    return None


def _value_bytes(header: SliceHeader) -> int:
    return header.rows * header.columns * header.bits_allocated // 8


def _native(header: SliceHeader, value: bytes) -> NDArray:
    big = header.pixels.syntax == BIG_ENDIAN
    if big and header.bits_allocated == 8 and header.pixels.vr == "OW":
        value = np.frombuffer(value, np.uint16).byteswap().tobytes()
    dtype = np.dtype(f"{'>' if big else '<'}{'ui'[header.representation]}{header.bits_allocated // 8}")
    pixels = np.frombuffer(value, dtype, header.rows * header.columns).reshape(header.rows, header.columns)
    pixels = pixels.astype(dtype.newbyteorder("="))
    unused = header.bits_allocated - header.bits_stored
    if unused:  # those bits may hold anything
        pixels <<= unused
        pixels >>= unused
    return pixels


def _codestream(value: bytes) -> bytes:
    """Join the fragments of a frame; raises ValueError or struct.error where their end is missing."""
    fragments = []
    at = 0
    while True:
        group, element, length = struct.unpack_from("<HHL", value, at)
        at += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return b"".join(fragments[1:])  # the first is the table of offsets
        if (group, element) != (0xFFFE, 0xE000) or at + length > len(value):
            raise ValueError("damaged fragments")
        fragments.append(value[at : at + length])
        at += length


def _unpacked(header: SliceHeader, codestream: bytes, case: str) -> NDArray:
    """Decode a frame by GDCM within SimpleITK, from a file that holds nothing but its pixels."""
    if header.pixels.syntax != _RLE:
        size = _jpeg_2000_size(codestream) if header.pixels.syntax in _JPEG_2000 else _jpeg_size(codestream)
        if size != (header.columns, header.rows, 1):
            raise InputError(f"{case}: a slice's pixels do not fit its header; export the series again")
        if b"\xff\xd9" not in codestream[-10:]:
            raise ValueError("no end of the image")
    sitk = simpleitk(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.dcm"
        _write_frame(path, header, codestream)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        return sitk.GetArrayFromImage(reader.Execute())[0]


def _write_frame(path: Path, header: SliceHeader, codestream: bytes) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = header.pixels.syntax
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.is_little_endian, data.is_implicit_VR = True, False
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = header.rows, header.columns
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored = header.bits_allocated, header.bits_stored
    data.HighBit = header.bits_stored - 1
    data.PixelRepresentation = header.representation
    data.PixelData = encapsulate([codestream])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.save_as(path)


def _jpeg_size(codestream: bytes) -> tuple[int, int, int]:
    """Return columns, rows and components of a JPEG or JPEG-LS image, by its frame header."""
    at = 2
    while True:
        start, marker, length = struct.unpack_from(">BBH", codestream, at)
        if start != 0xFF:
            raise ValueError("no marker")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            _, rows, columns, components = struct.unpack_from(">BHHB", codestream, at + 4)
            return columns, rows, components
        at += 2 + length


def _jpeg_2000_size(codestream: bytes) -> tuple[int, int, int]:
    """Return columns, rows and components of a JPEG 2000 image, by its size segment."""
    at = codestream.index(b"\xff\x4f\xff\x51")
    right, bottom, left, top, *_, components = struct.unpack_from(">LLLLLLLLH", codestream, at + 8)
    return right - left, bottom - top, components
