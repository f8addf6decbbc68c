"""Volumes kept in memory up to a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def kept_bytes(voxels: int) -> int:
    """Return what a volume takes in the cache: image in half precision, label in a byte."""
    return 3 * voxels


class VolumeCache:
    """Preprocessed volumes, the least recently used dropped first. A worker process that starts afresh begins empty.

    Args:
        load: gives (image [H, W, D] float, label [H, W, D] integer) of a case index.
        limit_bytes: most memory that the kept volumes take; one volume is always held, however large.

    Attributes:
        bytes: what the kept volumes take now.
        reads: how often a volume was loaded.
    """

    def __init__(self, load: Callable[[int], tuple[Tensor, Tensor]], limit_bytes: int) -> None:
        self._load = load
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()
        self.bytes = 0
        self.reads = 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return (image float16, label uint8), both [H, W, D] with contiguous slices."""
        if index not in self._kept:
            self.put(index, *self._load(index))
        self._kept.move_to_end(index)
        return self._kept[index]

    def put(self, index: int, image: Tensor, label: Tensor) -> None:
        """Keep what was loaded of a case, as `load` gives it."""
        self.reads += 1
        pair = (_slices_first(image, torch.float16), _slices_first(label, torch.uint8))
        size = kept_bytes(pair[0].numel())
        while self._kept and self.bytes + size > self.limit_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= kept_bytes(dropped[0].numel())
        self.bytes += size
        self._kept[index] = (pair[0].permute(1, 2, 0), pair[1].permute(1, 2, 0))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "bytes": 0}


def _slices_first(volume: Tensor, dtype: torch.dtype) -> Tensor:
    """Return [D, H, W], each slice in one piece."""
    return volume.to(dtype).permute(2, 0, 1).contiguous()
