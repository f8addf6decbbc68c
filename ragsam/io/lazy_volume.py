"""Volumes of which only the header is read: their voxels are decoded when they are first asked for."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ragsam.errors import InputError

#: More than this a header may not promise.
MAX_VOXELS = 2**31
#: Longer than this no side of a NIfTI file can be, and labels are written as NIfTI.
MAX_SIDE = 2**15 - 1
_STDERR_LOCK = threading.RLock()  # of two threads at once, one would put the other's silence back


class LazyVoxels:
    """What nibabel takes for an array on disk: `load` is called when voxels are first asked for, and its array kept.

    Args:
        load: returns the voxels [X, Y, Z]; picklable, so that worker processes can have it.
        shape: (3,), as the header has it.
        dtype: of the voxels, as the header has it.
    """

    is_proxy = True
    ndim = 3

    def __init__(self, load: Callable[[], NDArray], shape: Sequence[int], dtype: DTypeLike) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self._load = load
        self._voxels: NDArray | None = None

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        if self._voxels is None:
            self._voxels = self._load()
        return np.array(self._voxels, dtype=dtype, copy=copy)

    def __getitem__(self, index: Any) -> NDArray:
        return self.__array__()[index]


def lazy_volume(
    load: Callable[[], NDArray], shape: Sequence[int], dtype: DTypeLike, lps_affine: ArrayLike, case: str
) -> nibabel.Nifti1Image:
    """Return a volume whose voxels are not loaded, in nibabel's world (RAS).

    Args:
        load: returns the voxels [X, Y, Z].
        shape: (3,), from the header.
        dtype: from the header.
        lps_affine: (4, 4), voxel index to mm in the world of DICOM and ITK: left, posterior, superior grow.
        case: how errors name it.

    Raises:
        InputError: a header that promises more than 2**31 voxels, or a side above 32767.
    """
    if max(shape) > MAX_SIDE:
        raise InputError(
            f"{case}: the header promises {tuple(shape)} voxels, a side above {MAX_SIDE}, the most that NIfTI has; "
            "cut or resample it"
        )
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise InputError(
            f"{case}: the header promises {tuple(shape)} voxels, above 2**31; the file is damaged or too large"
        )
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(lps_affine, dtype=np.float64)
    image = nibabel.Nifti1Image(LazyVoxels(load, shape, dtype), affine + 0.0, dtype=dtype)  # + 0.0: no -0.0
    image.header["sform_code"] = 1  # the scanner's own world; set_sform would round the affine to float32
    image.header.set_qform(affine, code=1)  # of the header alone; for readers that know no sform
    image.header.set_xyzt_units("mm")
    return image


def simpleitk(case: str) -> ModuleType:
    """Import SimpleITK; raises InputError where it is not installed."""
    try:
        import SimpleITK
    except ImportError as error:
        raise InputError(f"{case}: DICOM, .mha and .nrrd need SimpleITK; run `pip install SimpleITK`") from error
    return SimpleITK


@contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep the C++ libraries under SimpleITK from writing to stderr: they print file names and header text there."""
    with _STDERR_LOCK:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
