"""Slices of a volume, with neighbouring slices as channels, and windows of a slice."""

from __future__ import annotations

import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor

#: Fraction that neighbouring windows of a slice share, in the bank and at inference alike.
WINDOW_OVERLAP = 0.25


def context_channels(volume: Tensor, slice_context: bool) -> Tensor:
    """Return three channels a slice: the slice between its two neighbours (2.5D), or the slice repeated.

    Args:
        volume: [..., H, W, D]; slices lie along the last axis.
        slice_context: True for 2.5D; beyond the ends the outermost slice is repeated.

    Returns:
        [3, ..., H, W, D].
    """
    if not slice_context:
        return volume.expand(3, *volume.shape)
    below = torch.cat([volume[..., :1], volume[..., :-1]], dim=-1)
    above = torch.cat([volume[..., 1:], volume[..., -1:]], dim=-1)
    return torch.stack([below, volume, above])


def slice_channels(volume: Tensor, index: int, slice_context: bool) -> Tensor:
    """Return one slice of `context_channels` without building the others: [3, H, W]."""
    last = volume.shape[-1] - 1
    indices = (max(index - 1, 0), index, min(index + 1, last)) if slice_context else (index, index, index)
    return volume[..., list(indices)].permute(2, 0, 1)


def slice_height(index: int, count: int) -> float:
    """Return a slice's relative position in its volume: 0 for the first, 1 for the last, 0.5 for a single slice."""
    return index / (count - 1) if count > 1 else 0.5


def slice_windows(size: tuple[int, int], window: int) -> list[tuple[slice, slice]]:
    """Return the overlapping windows that cover a slice; one for a slice that fits."""
    sides = tuple(min(window, side) for side in size)
    step = tuple(max(1, int(side * (1 - WINDOW_OVERLAP))) for side in sides)
    return [tuple(s) for s in dense_patch_slices(size, sides, step)]


def pad_to_window(tensor: Tensor, window: int) -> Tensor:
    """Pad the last two axes with zeros, evenly on both sides, to at least `window`."""
    pads: list[int] = []
    for side in reversed(tensor.shape[-2:]):
        missing = max(window - side, 0)
        pads += [missing // 2, missing - missing // 2]
    return torch.nn.functional.pad(tensor, pads)
