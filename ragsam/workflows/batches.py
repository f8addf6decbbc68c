"""What a trainer makes of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def prepare_slices(
    batch: dict[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor, tuple[()], dict[str, Any]]:
    """Return (image [B, 3, S, S], label [B, 1, S, S], (), {"supports": Supports or None}) of a slice batch."""
    supports = batch.get("supports")
    return (
        batch["image"].to(device, non_blocking=non_blocking),
        batch["label"].to(device, non_blocking=non_blocking),
        (),
        {"supports": supports.to(device) if supports is not None else None},
    )
