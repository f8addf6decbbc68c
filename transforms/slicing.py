"""Slices of a volume, with neighbouring slices as channels, and windows of a slice."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import dense_patch_slices
from torch import Tensor

from ragsam.errors import InputError

#: Fraction that neighbouring windows of a slice share, in the bank and at inference alike.
WINDOW_OVERLAP = 0.25
#: How a volume is turned so that its slices lie along the last axis, by the axis of RAS that is sliced.
SLICE_AXCODES = {0: "ASR", 1: "RSA", 2: "RAS"}


def context_offsets(
    context_slices: int, *, distance_mm: float | None = None, spacing_mm: float = 1.0
) -> tuple[float, ...]:
    """Return where the channels of a slice lie, in slices from it.

    Args:
        context_slices: neighbours on each side (2.5D), giving 2 k + 1 channels; 0 repeats the slice three times.
        distance_mm: from one channel to the next; None takes adjacent slices, however far apart they are.
        spacing_mm: from slice to slice.

    Raises:
        InputError: a negative number of neighbours, or a distance that is not above 0.
    """
    if context_slices < 0:
        raise InputError(f"context_slices {context_slices}: must not be negative; 0 repeats the slice")
    if distance_mm is None:
        distance_mm = spacing_mm
    if not distance_mm > 0:
        raise InputError(f"context_distance_mm {distance_mm}: must be above 0; null takes adjacent slices")
    if context_slices == 0:
        return (0.0, 0.0, 0.0)
    step = distance_mm / spacing_mm
    return tuple(step * number for number in range(-context_slices, context_slices + 1))


def slice_spacing_mm(volume: Tensor) -> float:
    """Return the distance from slice to slice of a volume [..., H, W, D] that knows its affine.

    Raises:
        ValueError: a plain tensor.
    """
    if not isinstance(volume, MetaTensor):
        raise ValueError("the volume carries no affine, so a context distance in mm means nothing; pass a MetaTensor")
    return float(volume.affine.reshape(-1, 4, 4)[0, :3, 2].norm())


def slice_channels(volume: Tensor, index: int, offsets: Sequence[float]) -> Tensor:
    """Return the channels [C, ..., H, W] of a slice of a volume [..., H, W, D]: the planes at its C offsets.

    Between two slices the plane is interpolated linearly, so that it lies at its distance exactly; beyond the ends the
    outermost slice is repeated.
    """
    last = volume.shape[-1] - 1
    planes = []
    for offset in offsets:
        place = min(max(index + offset, 0.0), last)
        lower = floor(place)
        plane = volume[..., lower]
        if place > lower:
            plane = torch.lerp(plane.float(), volume[..., lower + 1].float(), place - lower)
        planes.append(plane)
    return torch.stack(planes)


def slice_number(index: int, count: int, *, down: bool = False) -> int:
    """Return a slice's number in RAS, counted to the patient's right, front or head; `down`: indices run against it."""
    return count - 1 - index if down else index


def slice_height(index: int, count: int) -> float:
    """Return a slice's relative position in its volume: 0 for the first, 1 for the last, 0.5 for a single slice."""
    return index / (count - 1) if count > 1 else 0.5


def slice_windows(size: tuple[int, int], window: int) -> list[tuple[slice, slice]]:
    """Return the overlapping windows that cover a slice; one for a slice that fits."""
    sides = np.minimum(window, size)
    step = np.maximum(1, sides * (1 - WINDOW_OVERLAP)).astype(int)
    return list(map(tuple, dense_patch_slices(size, sides.tolist(), step.tolist())))


def pad_to_window(tensor: Tensor, window: int) -> Tensor:
    """Pad the last two axes with zeros, evenly on both sides, to at least `window`."""
    height, width = tensor.shape[-2:]
    rows = max(window - height, 0)
    columns = max(window - width, 0)
    pads = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(tensor, pads)
