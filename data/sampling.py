"""The order in which an epoch's slices are read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import Sampler


class VolumeWindowSampler(Sampler[int]):
    """Orders an epoch's draws so that a volume is read once, for volumes that do not fit the cache together.

    Volumes come in random order, as many at a time as fit; the slices drawn from those are shuffled. What is drawn
    stays as it was. Each worker process of a loader reads for itself.

    Args:
        drawn: gives the indices of an epoch, such as a `WeightedRandomSampler`.
        volume_of, sizes: the volume of every index, and the bytes of every volume.
        limit_bytes: what may be held at once; a larger volume is taken alone.
    """

    def __init__(
        self, drawn: Sampler[int], volume_of: Sequence[int], sizes: Mapping[int, int], limit_bytes: int
    ) -> None:
        self.drawn = drawn
        self.volume_of = volume_of
        self.sizes = sizes
        self.limit_bytes = limit_bytes

    def __len__(self) -> int:
        return len(self.drawn)

    def __iter__(self) -> Iterator[int]:
        slices: defaultdict[int, list[int]] = defaultdict(list)
        for index in self.drawn:
            slices[self.volume_of[index]].append(index)
        window: list[int] = []
        filled = 0
        for volume in _shuffled(list(slices)):
            if window and filled + self.sizes[volume] > self.limit_bytes:
                yield from _shuffled(window)
                window = []
                filled = 0
            window += slices[volume]
            filled += self.sizes[volume]
        yield from _shuffled(window)


def _shuffled(items: list[int]) -> list[int]:
    return [items[position] for position in torch.randperm(len(items)).tolist()]
