"""One DICOM file: whether it is one, its header read within bounds, and where its pixels lie."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pydicom import Dataset

_PREAMBLE_BYTES = 128
_HEADER_BYTES = 16 << 20  # that an inflated file may have before its pixels
_MOST_READS = 20_000  # of a header: damaged lengths make pixels look like as many elements
_PEEKED_BYTES = 1 << 16  # may be asked for at a file's end, to see that it is one
_FIRST_ELEMENT = 0x60
_FIRST_VALUE_BYTES = 256  # of a bare file's first element, such as Image Type
_FIRST_VRS = (b"UL", b"UI", b"CS", b"OB", b"DA", b"TM", b"DT", b"SH", b"LO")
_PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_UNDEFINED = 0xFFFFFFFF
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"


@dataclass(frozen=True)
class PixelElement:
    """Where a file's pixels lie: the element's keyword and VR, its transfer syntax, and the place of its value.

    `offset` and `length` are in bytes of the file, or of what its deflated part, from `deflated_at` on, inflates to.
    The length is None if it is undefined, as it is of compressed pixels.
    """

    keyword: str
    vr: str
    syntax: str
    offset: int
    length: int | None
    deflated_at: int | None = None


class _BoundedReader:
    """A file that is read a bounded number of times, and never for more than it has left.

    Raises:
        ValueError: more is asked for, as lengths that are damaged do.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads = 0
        self.tell, self.seek = file.tell, file.seek
        start = file.tell()
        self._bytes = file.seek(0, os.SEEK_END)
        file.seek(start)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        self._reads += 1
        if self._reads > _MOST_READS or size > max(_PEEKED_BYTES, self._bytes - self.tell()):
            raise ValueError("damaged lengths")
        return self._file.read(size)


def is_dicom_file(path: Path) -> bool:
    """Return whether a file is DICOM: by its preamble, or as a bare data set by its first element."""
    with path.open("rb") as file:
        head = file.read(_PREAMBLE_BYTES + 4)
    return head[_PREAMBLE_BYTES:] == b"DICM" or _bare_syntax(head) is not None


def read_header(path: Path, tags: Sequence[str] | None = None) -> tuple[Dataset, PixelElement | None]:
    """Return what stands before a file's pixels, and where these are; None if it has none.

    Args:
        path: a file for which `is_dicom_file` holds.
        tags: keywords of what is read; None reads all.

    Raises:
        Exception: pydicom has many for damaged files, whose texts may hold patient data.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset, read_partial, read_preamble
    from pydicom.tag import Tag

    wanted = None if tags is None else [Tag(name) for name in tags]
    found: list[tuple[int, str | None, int, int]] = []
    deflated_at = None
    with path.open("rb") as opened:
        file = stream = _BoundedReader(opened)

        def at_pixels(tag: int, vr: str | None, length: int) -> bool:
            if tag in _PIXEL_TAGS:
                found.append((tag, vr, length, stream.tell()))
            return bool(found)

        read_preamble(file, force=True)
        meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
        start = file.tell()
        syntax = str(meta.get("TransferSyntaxUID") or "") or _bare_syntax(file.read(8))
        if syntax is None:
            raise ValueError("no transfer syntax")
        if syntax == DEFLATED:
            deflated_at = start
            stream = _BoundedReader(BytesIO(_inflated(opened, start, _HEADER_BYTES)))
            data = read_dataset(stream, False, True, stop_when=at_pixels, specific_tags=wanted)
            data.file_meta = meta
        else:
            file.seek(0)
            data = read_partial(file, stop_when=at_pixels, force=True, specific_tags=wanted)
    if not found:
        return data, None
    tag, vr, length, offset = found[0]
    whole = None if length == _UNDEFINED else length
    return data, PixelElement(_PIXEL_TAGS[tag], vr or "OW", syntax, offset, whole, deflated_at)


def read_pixel_bytes(path: Path, pixels: PixelElement) -> bytes:
    """Return the value of a file's pixel element, to the file's end where its length is undefined; may be short.

    Raises:
        OSError, zlib.error: the file is gone, or what is deflated is damaged.
    """
    with path.open("rb") as file:
        if pixels.deflated_at is not None:
            return _inflated(file, pixels.deflated_at, pixels.offset + (pixels.length or 0))[pixels.offset :]
        file.seek(pixels.offset)
        return file.read() if pixels.length is None else file.read(pixels.length)


def _inflated(file: BinaryIO, start: int, most_bytes: int) -> bytes:
    """Return the first bytes of what a raw deflate stream inflates to: a small file may hold gigabytes."""
    file.seek(start)
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), most_bytes)


def _bare_syntax(head: bytes) -> str | None:
    """Return the transfer syntax of a data set by its first element, None for what is no data set."""
    if head[:2] == b"\0\x08" and head[4:6] in _FIRST_VRS:
        return BIG_ENDIAN
    if len(head) < 8:
        return None
    group, element, length = struct.unpack_from("<HHL", head)
    if group not in (0x0002, 0x0008) or element > _FIRST_ELEMENT:
        return None
    if head[4:6] in _FIRST_VRS:
        return "1.2.840.10008.1.2.1"
    return "1.2.840.10008.1.2" if length <= _FIRST_VALUE_BYTES else None
