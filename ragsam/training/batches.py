"""What a trainer makes of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ragsam.training.losses import Target


def prepare_slices(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Target, tuple[()], dict[str, Any]]:
    """Return (image [B, C, S, S], `Target`, (), {"supports": Supports or None}) of a slice batch.

    Where it has embeddings [B, C, h, w] they are beside the supports, as "embedding".
    """
    supports = batch.get("supports")
    label, annotated = (batch[name].to(device, non_blocking=non_blocking) for name in ("label", "annotated"))
    options = {"supports": supports.to(device) if supports is not None else None}
    if "embedding" in batch:
        options["embedding"] = batch["embedding"].to(device, non_blocking=non_blocking)
    return batch["image"].to(device, non_blocking=non_blocking), Target(label, annotated), (), options
