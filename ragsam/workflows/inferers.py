"""Volume in, logits out: whole slices in batches, or overlapping windows of larger slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import SliceInferer
from torch import Tensor

from ragsam.transforms.slicing import (
    WINDOW_OVERLAP,
    context_channels,
    context_offsets,
    slice_height,
    slice_spacing_mm,
)


class VolumeInferer(SliceInferer):
    """MONAI's sliding window over the slices of a volume, for a network that takes channels and a height.

    Args:
        image_size: side of the window, pixels: smaller slices are padded, larger ones covered by overlapping windows.
        batch_size: windows run at once.
        context_slices: neighbours on each side as channels, as in training.
        context_distance_mm: from one channel to the next, as in training; the volume must then carry its affine.
        shift: pixels by which the volume is moved to each side in the plane; the probabilities of the five positions
            are averaged, for five times the time. 0 looks once.
    """

    def __init__(
        self,
        image_size: int,
        *,
        batch_size: int = 16,
        context_slices: int = 1,
        context_distance_mm: float | None = None,
        shift: int = 0,
    ) -> None:
        super().__init__(
            spatial_dim=2,
            roi_size=(image_size, image_size),
            sw_batch_size=batch_size,
            overlap=WINDOW_OVERLAP,
            mode="gaussian",
        )
        self.context_slices = context_slices
        self.context_distance_mm = context_distance_mm
        self.shift = shift

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return logits [B, K + 1, H, W, D] of a volume [B, 1, H, W, D], 0-1."""
        channels = context_channels(inputs[:, 0], self._offsets(inputs)).movedim(0, 1)
        depth = inputs.shape[-1]
        heights = inputs.new_tensor([slice_height(z, depth) for z in range(depth)])
        # The height travels as one more channel, so that it is cut into the same windows; padding is 0, hence `amax`.
        stacked = torch.cat([channels, heights.expand_as(channels[:, :1])], dim=1)

        def run(windows: Tensor) -> Tensor:
            return network(windows[:, :-1].contiguous(), height=windows[:, -1].amax((1, 2)))

        if self.shift == 0:
            return super().__call__(stacked, run)
        margin = self.shift  # of zeros on every side, so that what a shift rolls over the edge is empty
        padded = F.pad(stacked, (0, 0, margin, margin, margin, margin))
        total = padded.new_zeros(())
        for move in ((0, 0), (margin, 0), (-margin, 0), (0, margin), (0, -margin)):
            logits = super().__call__(padded.roll(move, (2, 3)), run)
            total = total + logits.softmax(1).roll((-move[0], -move[1]), (2, 3))
        return (total / 5)[:, :, margin:-margin, margin:-margin].clamp_min(1e-8).log()

    def _offsets(self, inputs: Tensor) -> tuple[float, ...]:
        if self.context_distance_mm is None:
            return context_offsets(self.context_slices)
        spacing_mm = slice_spacing_mm(inputs)
        return context_offsets(self.context_slices, distance_mm=self.context_distance_mm, spacing_mm=spacing_mm)
