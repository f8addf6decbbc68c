"""A network on the device that trains it, as fast as that allows."""

from __future__ import annotations

import torch
from torch import nn


def place(
    network: nn.Module, device: torch.device | str, *, channels_last: bool = False, compiled: bool = False
) -> nn.Module:
    """Move a network to a device, in place, and return it. On a GPU products of float32 run in TF32.

    Args:
        channels_last: store the weights of convolutions with channels last.
        compiled: have torch compile the image encoder, where nearly all of the time goes; its first batches, and the
            first of every other size, take minutes.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    network.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
    if compiled:
        network.sam.image_encoder.compile()
    return network
