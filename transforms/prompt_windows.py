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
        left, right = self._margins(columns, self.column)
        top, bottom = self._margins(rows, self.row)
        return F.pad(slices[..., rows, columns], (left, right, top, bottom), value=outside)

    def _margins(self, inside: slice, start: int) -> tuple[int, int]:
        """Return by how much a window leaves a slice before and behind what lies inside."""
        return inside.start - start, start + self.size - inside.stop

    def inner(self, shape: Sequence[int]) -> tuple[slice, slice]:
        """Return the rows and columns of a slice (H, W) that are in the window."""
        height, width = shape[-2:]
        rows = slice(max(self.row, 0), min(self.row + self.size, height))
        columns = slice(max(self.column, 0), min(self.column + self.size, width))
        return rows, columns

    def own(self, seen: Tensor, shape: Sequence[int]) -> Tensor:
        """Return what of the window's pixels [..., S, S] is on a slice (H, W): that of `inner`."""
        rows, columns = self.inner(shape)
        top, left = rows.start - self.row, columns.start - self.column
        bottom, right = rows.stop - self.row, columns.stop - self.column
        return seen[..., top:bottom, left:right]


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
    height, width = shape
    top, left, bottom, right = region
    rows = _starts(height, size, top, bottom)
    columns = _starts(width, size, left, right)
    return [Window(row, column, size) for row in rows for column in columns]


def _starts(side: int, size: int, first: float, last: float) -> list[int]:
    """Return where the windows along an axis of `side` pixels begin."""
    if side <= size:
        return [-((size - side) // 2)]
    low = max(floor(first), 0)
    high = min(ceil(last), side - 1)
    excess = high - low + 1 - size
    if excess <= 0:
        middle = low - (-excess) // 2
        return [min(max(middle, 0), side - size)]
    count = 1 + ceil(excess / (size * (1 - WINDOW_OVERLAP)))
    return [low + round(index * excess / (count - 1)) for index in range(count)]
