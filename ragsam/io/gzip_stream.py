"""Files packed by gzip or not: their first bytes tell, whatever they are called."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ragsam.errors import InputError

_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


def is_packed(path: Path) -> bool:
    """Return whether a file begins as gzip's do."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file for reading what it holds unpacked."""
    return gzip.open(path) if is_packed(path) else path.open("rb")


@contextmanager
def reading(case: str) -> Iterator[None]:
    """Raise what goes wrong while a file is read as InputError."""
    try:
        yield
    except EOFError as error:
        raise InputError(f"{case}: the file is cut short (gzip ends early); copy it again") from error
    except PermissionError as error:
        raise InputError(f"{case}: the file cannot be read ({error.strerror}); check its permissions") from error
    except (OSError, zlib.error) as error:
        raise InputError(f"{case}: the file is damaged or not packed by gzip; copy it again") from error


def unpacked_bytes(path: Path, case: str, *, limit: int) -> int:
    """Read a file to its end in pieces and return its unpacked size; gzip checks length and checksum there.

    Raises:
        InputError: a damaged or cut file, or one that unpacks to more than `limit`.
    """
    size = 0
    with reading(case), open_unpacked(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                raise InputError(f"{case}: the file unpacks to more than its header says; copy it again")
    return size
