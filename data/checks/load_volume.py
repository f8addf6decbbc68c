"""A volume checked while its voxels are loaded, so that its file is read once."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ragsam.data.checks.check_case import scan_opened, scan_volume
from ragsam.data.checks.slab_reader import Slab


class _Keeper:
    """Keeps the voxels of a volume that is read slab by slab, unless the volume keeps them itself."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self.voxels: NDArray | None = None

    def begin(self, image: SpatialImage) -> None:
        if isinstance(image.dataobj, ArrayProxy):
            self.shape = image.shape

    def add(self, slab: Slab) -> None:
        if self.shape is None:
            return
        if self.voxels is None:
            self.voxels = np.empty(self.shape, slab.voxels.dtype, order="F")
        self.voxels[:, slab.rows, slab.slices] = slab.voxels


def load_volume_checked(path: str | Path, case: str, *, fill_nonfinite: float | None = None) -> SpatialImage:
    """Load a volume as `read_volume_checked` opens one, its voxels in memory; its file is read once.

    NaN and infinite voxels come out as `fill_nonfinite` where that is given.

    Raises:
        InputError: as `scan_volume`.
    """
    keeper = _Keeper()
    image, told = scan_volume(path, case, keeper, fill_nonfinite=fill_nonfinite)
    for line in told:
        warnings.warn(line, stacklevel=2)
    if keeper.voxels is None:
        return image
    return type(image)(keeper.voxels, image.affine, image.header)


def check_loaded(image: SpatialImage, case: str) -> None:
    """Check a volume in memory as one from a file.

    Raises:
        InputError: as `scan_volume`.
    """
    for line in scan_opened(image, Path(), case):
        warnings.warn(line, stacklevel=2)
