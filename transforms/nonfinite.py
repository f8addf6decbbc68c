"""Voxels that are NaN or infinite, filled where the datalist asks for it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform
from numpy.typing import NDArray


def fill_nonfinite(voxels: NDArray, value: float) -> NDArray:
    """Return the voxels with `value` for every NaN and infinity; the same array if all are finite."""
    finite = np.isfinite(voxels)
    if finite.all():
        return voxels
    return np.where(finite, voxels, voxels.dtype.type(value))


class FillNonfinited(MapTransform):
    """Fills NaN and infinite voxels with the item's own `fill_nonfinite` and drops it; without one nothing is done."""

    def __init__(self, key: str = "image", value_key: str = "fill_nonfinite") -> None:
        super().__init__(key, allow_missing_keys=True)
        self.value_key = value_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the volume filled."""
        items = dict(data)
        value = items.pop(self.value_key, None)
        if value is None:
            return items
        for key in self.key_iterator(items):
            items[key] = torch.nan_to_num(items[key], nan=value, posinf=value, neginf=value)
        return items
