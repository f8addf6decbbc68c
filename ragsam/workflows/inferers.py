"""Volume in, logits out: whole slices in batches, or overlapping windows of larger slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SliceInferer
from torch import Tensor

from ragsam.transforms.slicing import WINDOW_OVERLAP, context_channels, slice_height


class VolumeInferer(SliceInferer):
    """MONAI's sliding window over the slices of a volume, for a network that takes three channels and a height.

    Args:
        image_size: side of the window, pixels: smaller slices are padded, larger ones covered by overlapping windows.
        batch_size: windows run at once.
        slice_context: 2.5D, or the slice repeated, as in training.
    """

    def __init__(self, image_size: int, *, batch_size: int = 16, slice_context: bool = True) -> None:
        super().__init__(
            spatial_dim=2,
            roi_size=(image_size, image_size),
            sw_batch_size=batch_size,
            overlap=WINDOW_OVERLAP,
            mode="gaussian",
        )
        self.slice_context = slice_context

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return logits [B, K + 1, H, W, D] of a volume [B, 1, H, W, D], 0-1."""
        channels = context_channels(inputs[:, 0], self.slice_context).movedim(0, 1)
        depth = inputs.shape[-1]
        heights = inputs.new_tensor([slice_height(z, depth) for z in range(depth)])
        # The height travels as a fourth channel, so that it is cut into the same windows; padding is 0, hence `amax`.
        stacked = torch.cat([channels, heights.expand_as(channels[:, :1])], dim=1)

        def run(windows: Tensor) -> Tensor:
            return network(windows[:, :3].contiguous(), height=windows[:, 3].amax((1, 2)))

        return super().__call__(stacked, run)
