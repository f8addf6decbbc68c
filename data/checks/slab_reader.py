"""A volume's voxels a few slices at a time, its file unpacked once and to its end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Image
from nibabel.spatialimages import SpatialImage
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from ragsam.errors import InputError
from ragsam.io.gzip_stream import is_packed, open_unpacked, reading, unpacked_bytes

SLAB_VOXELS = 1 << 22
_CHUNK_BYTES = 1 << 20
_CUT = "the file is cut short (voxels are missing); copy it again"


class Slab(NamedTuple):
    """Whole slices, or rows of one slice where a slice alone is too large.

    `voxels` [X, rows, slices] are in the file's orientation, scaled; `rows` and `slices` tell where they lie.
    """

    voxels: NDArray
    rows: slice
    slices: slice


class SlabReader(Protocol):
    """What looks at a volume while it is read: `begin` once, then `add` for every slab, in the file's order."""

    def begin(self, image: SpatialImage) -> None:
        """Take the opened image, whose data are not loaded."""

    def add(self, slab: Slab) -> None:
        """Take the next voxels."""


class VolumeKeeper:
    """Keeps a volume's voxels while they are read, so that its file need not be read again."""

    def begin(self, image: SpatialImage) -> None:
        """Take the opened image."""
        self._image = image
        self._voxels: NDArray | None = None

    def add(self, slab: Slab) -> None:
        """Keep a slab's voxels; volumes that are not nibabel's keep their own once they are decoded."""
        if not isinstance(self._image.dataobj, ArrayProxy):
            return
        if self._voxels is None:
            self._voxels = np.empty(self._image.shape, slab.voxels.dtype, order="F")
        self._voxels[:, slab.rows, slab.slices] = slab.voxels

    def volume(self) -> SpatialImage:
        """Return the image with its voxels in memory."""
        if self._voxels is None:
            return self._image
        return type(self._image)(self._voxels, self._image.affine, self._image.header)


def read_slabs(path: Path, image: SpatialImage, case: str) -> Iterator[Slab]:
    """Yield the voxels of an opened volume, at most 2**22 at a time; only bytes that are there are allocated.

    A NIfTI file is unpacked once: when the last slab is asked for, gzip has compared length and checksum.

    Raises:
        InputError: a damaged or cut stream, missing voxels, or a pack that holds far more than its header says.
    """
    if is_one_file(image):
        yield from _stream_nifti(path, image, case)
        return
    try:
        for rows, slices in _pieces(image.shape):
            yield Slab(np.asarray(image.dataobj[:, rows, slices]), rows, slices)
    except InputError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{case}: voxels cannot be read; copy the file again") from error


def check_stream(path: Path, image: SpatialImage, case: str) -> None:
    """Read a NIfTI file to its end without looking at its voxels; raises InputError as `read_slabs`."""
    if not is_one_file(image):
        return
    needed = _needed_bytes(image)
    with reading(case):
        size = path.stat().st_size
        if is_packed(path):
            size = unpacked_bytes(path, case, limit=_most_bytes(needed))
    if size < needed:
        raise InputError(f"{case}: {_CUT}")


def is_one_file(image: SpatialImage) -> bool:
    """Return whether an image is a NIfTI that is not loaded, header and voxels in one file."""
    return isinstance(image, Nifti1Image) and isinstance(image.dataobj, ArrayProxy)


def _stream_nifti(path: Path, image: SpatialImage, case: str) -> Iterator[Slab]:
    """Yield the slabs of a NIfTI's header and its voxels in a row, packed by gzip or not at all."""
    proxy = image.dataobj
    slope = np.asanyarray(proxy.slope)
    inter = np.asanyarray(proxy.inter)
    needed = _needed_bytes(image)
    with reading(case), open_unpacked(path) as stream:
        _skip(stream, int(proxy.offset))
        for rows, slices in _pieces(image.shape):
            shape = (image.shape[0], rows.stop - rows.start, slices.stop - slices.start)
            size = math.prod(shape) * proxy.dtype.itemsize
            raw = stream.read(size)
            if len(raw) < size:
                raise InputError(f"{case}: {_CUT}")
            voxels = np.frombuffer(raw, dtype=proxy.dtype).reshape(shape, order="F")
            yield Slab(apply_read_scaling(voxels, slope, inter), rows, slices)
        _skip(stream, _most_bytes(needed) - needed)
        if stream.read(1):
            raise InputError(f"{case}: the file unpacks to more than its header says; copy it again")


def _skip(stream: BinaryIO, count: int) -> None:
    """Read up to `count` bytes and forget them; at the end of a packed stream gzip checks it."""
    while count > 0 and (chunk := stream.read(min(count, _CHUNK_BYTES))):
        count -= len(chunk)


def _pieces(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Cut a volume into runs of slices, or of one slice's rows, of at most `SLAB_VOXELS` voxels."""
    width, height, depth = map(int, shape)
    rows = min(height, max(1, SLAB_VOXELS // width))
    step = max(1, SLAB_VOXELS // (width * height))
    for z in range(0, depth, step):
        for y in range(0, height, rows):
            yield slice(y, min(y + rows, height)), slice(z, min(z + step, depth))


def _needed_bytes(image: SpatialImage) -> int:
    """Return the bytes that header and voxels take in the (unpacked) file."""
    offset = int(getattr(image.dataobj, "offset", 0))
    return offset + math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize


def _most_bytes(needed: int) -> int:
    """Return the most bytes a stream may unpack to: a header extension takes some beside the voxels."""
    return 2 * needed + (1 << 24)
