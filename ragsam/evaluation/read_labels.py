"""Label volumes as they are read for scoring and for pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from ragsam.data.checks.check_case import read_volume_checked
from ragsam.errors import InputError
from ragsam.io.grids import Grid, turn_onto

WHOLE_NUMBER_TOLERANCE = 1e-3
_NAMED_VALUES = 8


@dataclass(frozen=True)
class LabelVolume:
    """A label map and where it lies.

    Attributes:
        labels: [X, Y, Z], whole numbers; the file's own integer type, or int32.
        affine: (4, 4), voxel to mm.
        zooms_mm: the header's voxel sizes in array order, which only some protocols measure by.
    """

    labels: NDArray[np.integer]
    affine: NDArray[np.float64]
    zooms_mm: tuple[float, ...]

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.labels.shape, self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing in array order, from the affine's columns, which say where the voxels lie."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)).tolist()
        return x, y, z


def read_labels(path: Path, case: str, *, label_map: Mapping[int, int] | None = None) -> LabelVolume:
    """Read a label volume; floats within 1e-3 of whole numbers are taken as those numbers.

    Errors name the case. The label map has {value in the file: value on the card}, 0 for 0; None keeps the values.

    Raises:
        InputError: as `read_volume_checked`, and where a value is no whole number, or not in the label map.
    """
    return labels_of(read_volume_checked(path, case), case, label_map=label_map)


def labels_of(image: SpatialImage, case: str, *, label_map: Mapping[int, int] | None = None) -> LabelVolume:
    """Return the labels of an image that is checked; arguments and errors as of `read_labels`."""
    affine = np.asarray(image.affine, dtype=np.float64)
    labels = np.asanyarray(image.dataobj)
    if not np.issubdtype(labels.dtype, np.integer):
        labels = _whole_numbers(labels, case)
    zooms_mm = tuple(map(float, image.header.get_zooms()[:3]))
    if label_map is None:
        return LabelVolume(labels, affine, zooms_mm)
    found, places = np.unique(labels, return_inverse=True)
    table = {0: 0, **label_map}
    unknown = sorted(set(found.tolist()) - table.keys())
    if unknown:
        values = ", ".join(map(str, unknown[:_NAMED_VALUES]))
        if len(unknown) > _NAMED_VALUES:
            values += " ..."
        raise InputError(
            f"{case}: label {values} is not in the datalist's label_map; add it there, or to the card's raw numbers"
        )
    mapped = np.array([table[value] for value in found.tolist()], np.int32)
    return LabelVolume(mapped[places].reshape(labels.shape), affine, zooms_mm)


def _whole_numbers(values: NDArray[np.floating], case: str) -> NDArray[np.int32]:
    labels = np.rint(values)
    whole = np.abs(values - labels) <= WHOLE_NUMBER_TOLERANCE
    broken = np.count_nonzero(~whole)
    if broken:
        raise InputError(f"{case}: {broken} labels are not whole numbers; save them as integers")
    limits = np.iinfo(np.int32)
    if labels.min() < limits.min or labels.max() > limits.max:
        raise InputError(f"{case}: labels beyond 32 bits; save them as small integers")
    return labels.astype(np.int32)


def on_grid_of(reference: LabelVolume, prediction: LabelVolume) -> LabelVolume:
    """Return a prediction with its axes in the order of the reference's; raises OtherGridError as `turn_onto`."""
    turn = turn_onto(prediction.grid, reference.grid)
    return prediction if turn.is_none else replace(reference, labels=turn(prediction.labels))
