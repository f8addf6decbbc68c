"""How slices are laid out: which axes of the patient or of the file their rows and columns run along.

Networks see mirrored or turned slices as other slices, so a layout belongs to the weights that were trained in it.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation, Orientationd
from torch import Tensor

from ragsam.errors import InputError
from ragsam.transforms.slicing import SLICE_AXCODES

logger = logging.getLogger(__name__)

#: `ras`: slices [X, Y] of the volume turned to RAS. `file`: slices [j, i] across the third axis of the file's own
#: array [i, j, k], as published code feeds them that reads a file by SimpleITK or transposes it to z, y, x.
LAYOUTS = ("ras", "file")
#: What metadata, configs and banks mean that do not say it: they were written when there was no other.
DEFAULT_LAYOUT = "ras"
_PAIRS = ("LR", "PA", "IS")


class FileLayoutd(MapTransform):
    """Exchanges the first two axes of volumes [1, i, j, k], so that their slices are the file's own, [j, i].

    Every volume is turned to the axes of `image`, on whose grid it lies, whatever the axes of its own file are.

    Args:
        keys: of the volumes, MetaTensors.
        image: the key of the image.
    """

    def __init__(self, keys: Sequence[str], image: str = "image") -> None:
        super().__init__(keys)
        self.image = image

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with volumes [1, j, i, k]."""
        items = dict(data)
        i, j, k = nib.aff2axcodes(items[self.image].affine)
        _warn_of_direction(axis_across(i + j + k))
        turn = Orientation(axcodes=(j, i, k), labels=None)
        for key in self.key_iterator(items):
            items[key] = turn(items[key])
        return items


@cache
def _warn_of_direction(axis: int) -> None:
    """Say once that files store other slices than axial ones: networks are shown these, as published code does."""
    if axis != 2:
        told = "slice_layout file: a file stores %s slices, and the network sees those; most weights know axial ones"
        logger.warning(told, ("sagittal", "coronal")[axis])


def orientation_step(keys: Sequence[str], slice_axis: int, layout: str) -> MapTransform:
    """Return the transform that turns volumes so that their slices lie along the last axis.

    Args:
        keys: of the volumes, "image" among them.
        slice_axis: axis of RAS that is sliced.
        layout: one of `LAYOUTS`.

    Raises:
        InputError: another axis or layout, or an axis with the file's own slices, which lie across its third.
    """
    if slice_axis not in SLICE_AXCODES:
        raise InputError(f"slice_axis {slice_axis}: no such axis; choose 0 (sagittal), 1 (coronal) or 2 (axial)")
    if layout not in LAYOUTS:
        raise InputError(f"slice_layout {layout}: no such layout; choose one of {', '.join(LAYOUTS)}")
    if layout == "ras":
        return Orientationd(keys, axcodes=SLICE_AXCODES[slice_axis], labels=None)
    if slice_axis != 2:
        raise InputError(f"slice_axis {slice_axis}: slice_layout file takes the file's own slices; leave it at 2")
    return FileLayoutd(keys)


def orientation_of(volume: Tensor) -> str | None:
    """Return where the axes of a volume [..., H, W, D] point, such as RAS; None for one that carries no affine."""
    if not isinstance(volume, MetaTensor):
        return None
    return "".join(nib.aff2axcodes(np.asarray(volume.affine.reshape(-1, 4, 4)[0])))


def sides_axis(orientation: str | None) -> int | None:
    """Return the axis of slices [H, W], 0 or 1, that runs from side to side; None if they show no left and right.

    Args:
        orientation: see `orientation_of`; None is taken for RAS.
    """
    for axis, code in enumerate((orientation or "RAS")[:2]):
        if code in "LR":
            return axis
    return None


def runs_down(orientation: str | None) -> bool:
    """Whether slices are numbered against the direction of RAS: from head to feet, for instance."""
    return (orientation or "RAS")[2] in "LPI"


def axis_across(orientation: str | None) -> int:
    """Return the axis of RAS that slices lie across: 0 sagittal, 1 coronal, 2 axial."""
    return _PAIRS.index(pair_of((orientation or "RAS")[2]))


def pair_of(code: str) -> str:
    """Return a direction, such as R, and its opposite."""
    return next(pair for pair in _PAIRS if code in pair)
