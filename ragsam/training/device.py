"""A network placed on the device that trains it."""

from __future__ import annotations

import torch
from torch import nn


def place(
    network: nn.Module, device: torch.device | str, *, channels_last: bool = False, compiled: bool = False
) -> nn.Module:
    """Move a network to a device, in place, and return it. On a GPU products of float32 run in TF32.

    Args:
        channels_last: store the weights of convolutions with channels last.
        compiled: have torch compile the image encoder, which takes nearly all of the time; the first batch of every
            size takes minutes.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compiled:
        network.sam.image_encoder.compile()
    return network
