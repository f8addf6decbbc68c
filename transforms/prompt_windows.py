"""Windows of a slice that a network sees an object through: one where it fits, else several that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import torch.nn.functional as F
from torch import Tensor

from ragsam.transforms.slicing import WINDOW_OVERLAP


@dataclass(frozen=True)
class Window:
    """A square window of a slice.

    Attributes:
        row, column: of the slice, where the window's first pixel lies; negative where the slice is padded.
        size: pixels.
    """

    row: int
    column: int
    size: int

    def cut(self, slices: Tensor, *, outside: float = 0.0) -> Tensor:
        """Return the window [..., S, S] of slices [..., H, W], `outside` where it leaves them."""
        rows, columns = self.inner(slices.shape[-2:])
        top, left = rows.start - self.row, columns.start - self.column
        bottom, right = self.size - top - (rows.stop - rows.start), self.size - left - (columns.stop - columns.start)
        return F.pad(slices[..., rows, columns], (left, right, top, bottom), value=outside)

    def inner(self, shape: Sequence[int]) -> tuple[slice, slice]:
        """Return the rows and columns of a slice (H, W) that lie in the window."""
        starts, sides = (self.row, self.column), shape[-2:]
        return tuple(slice(max(s, 0), min(s + self.size, side)) for s, side in zip(starts, sides, strict=True))

    def own(self, seen: Tensor, shape: Sequence[int]) -> Tensor:
        """Return what of the window's pixels [..., S, S] lies on a slice (H, W): that of `inner`."""
        rows, columns = self.inner(shape)
        return seen[
            ...,
            rows.start - self.row : rows.stop - self.row,
            columns.start - self.column : columns.stop - self.column,
        ]


def windows_around(shape: Sequence[int], size: int, region: Sequence[float]) -> list[Window]:
    """Return the windows through which a region of a slice is seen.

    A slice that is no larger than the window is padded evenly on both sides, as in training. In a larger one a region
    that fits stands in the middle of one window, as far as the slice's border lets it; one that does not is covered by
    overlapping windows.

    Args:
        shape: (2,), H and W of the slice.
        size: S, side of a window, pixels.
        region: top, left, bottom, right: outermost rows and columns.
    """
    rows = _starts(shape[0], size, region[0], region[2])
    columns = _starts(shape[1], size, region[1], region[3])
    return [Window(row, column, size) for row in rows for column in columns]


def _starts(side: int, size: int, first: float, last: float) -> list[int]:
    """Return where the windows along an axis of `side` pixels begin."""
    if side <= size:
        return [-((size - side) // 2)]
    low, high = max(floor(first), 0), min(ceil(last), side - 1)
    length = high - low + 1
    if length <= size:
        middle = low - (size - length) // 2
        return [min(max(middle, 0), side - size)]
    count = 1 + ceil((length - size) / (size * (1 - WINDOW_OVERLAP)))
    return [low + round(index * (length - size) / (count - 1)) for index in range(count)]
