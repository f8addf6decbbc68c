"""The arrays of a bank on disk: .npy files that grow by rows while they are drafts, and are memory-mapped after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_HEADER_BYTES = 128


def npy_header(shape: Sequence[int], dtype: Any) -> bytes:
    """Return the head of a .npy file, of one length whatever the shape: it is written again when a draft is finished.

    Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0.
    """
    about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": tuple(shape)}
    text = str(about).ljust(_HEADER_BYTES - 11) + "\n"
    return np.lib.format.magic(1, 0) + (_HEADER_BYTES - 10).to_bytes(2, "little") + text.encode("latin1")


def append_rows(file: BinaryIO, rows: np.ndarray) -> None:
    """Append rows [n, ...] to a draft; the first ones put a head before them."""
    if file.tell() == 0:
        file.write(npy_header((0, *rows.shape[1:]), rows.dtype))
    file.write(np.ascontiguousarray(rows).data)


def finish_array(path: Path, count: int, dtype: Any) -> None:
    """Write the number of rows into the head of a draft."""
    with path.open("rb+") as file:
        shape = _read_shape(file, dtype)
        file.seek(0)
        file.write(npy_header((count, *shape[1:]), dtype))


def open_array(path: Path, count: int, dtype: Any, rank: int) -> np.ndarray:
    """Memory-map a .npy file of `count` rows, after its head is found to agree with the file's size.

    Raises:
        ValueError: it has another number of rows or axes, another dtype or another size.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        shape = _read_shape(file, dtype)
    size = _HEADER_BYTES + prod(shape) * np.dtype(dtype).itemsize
    if shape[0] != count or len(shape) != rank or min(shape) < 1 or path.stat().st_size != size:
        raise ValueError(f"{path.name}: {shape} in {path.stat().st_size} bytes")
    return np.memmap(path, dtype, "r", _HEADER_BYTES, shape)


def _read_shape(file: BinaryIO, dtype: Any) -> tuple[int, ...]:
    """Return the shape in a head that is exactly one of `npy_header`; nothing of it is evaluated."""
    head = file.read(_HEADER_BYTES)
    found = re.search(rb"'shape': \(([0-9, ]+)\)", head)
    shape = tuple(int(side) for side in found[1].split(b",") if side.strip()) if found else ()
    if not shape or head != npy_header(shape, dtype):
        raise ValueError("not a .npy file of a bank")
    return shape


class PartedArray:
    """Arrays [n, ...] of one kind, one after the other, read like a single one by row numbers.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self._starts = np.cumsum([0, *map(len, self.parts)])
        self.dtype = self.parts[0].dtype
        self.shape = (int(self._starts[-1]), *self.parts[0].shape[1:])
        self.ndim = len(self.shape)
        if any(part.shape[1:] != self.shape[1:] for part in self.parts):
            raise ValueError("parts of a bank have rows of several shapes")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return rows by a number, a slice, a mask or an array of numbers of any shape."""
        rows = np.arange(len(self))[index]
        flat = np.ravel(rows)
        result = np.empty((len(flat), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self._starts, flat, side="right") - 1
        for number in np.unique(owner):
            there = owner == number
            result[there] = self.parts[number][flat[there] - self._starts[number]]
        return result.reshape(*np.shape(rows), *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)
