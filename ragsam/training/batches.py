"""A trainer's batch, moved to the device and laid out for the network and the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ragsam.training.losses import Target


def prepare_slices(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Target, tuple[()], dict[str, Any]]:
    """Return (image [B, C, S, S], `Target`, (), {"supports": Supports or None}) for a batch of slices.

    Embeddings [B, C, h, w] in the batch go with the supports, as "embedding".
    """
    image = batch["image"].to(device, non_blocking=non_blocking)
    label = batch["label"].to(device, non_blocking=non_blocking)
    annotated = batch["annotated"].to(device, non_blocking=non_blocking)
    options = {"supports": None}
    if batch.get("supports") is not None:
        options["supports"] = batch["supports"].to(device)
    if "embedding" in batch:
        options["embedding"] = batch["embedding"].to(device, non_blocking=non_blocking)
    return image, Target(label, annotated), (), options
