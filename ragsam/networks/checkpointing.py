"""Working out again in the backward pass what the forward pass does not keep: less memory for more time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

#: What is worked out again in the backward pass: nothing; of every block the attention; its MLP too; every block whole.
CHECKPOINTING = (None, "attention", "mlp", "blocks")


def require_checkpointing(what: str | None) -> None:
    """Refuse a word that is not of `CHECKPOINTING`; raises ValueError."""
    if what not in CHECKPOINTING:
        raise ValueError(f"checkpointing {what!r} is unknown; choose attention, mlp, blocks or null")


def checkpoint_blocks(blocks: Iterable[nn.Module], what: str | None) -> None:
    """Have transformer blocks work out again in the backward pass what `CHECKPOINTING` names; raises ValueError."""
    require_checkpointing(what)
    for block in blocks:
        block.attn.recompute = what in ("attention", "mlp")
        block.recompute_mlp = what == "mlp"


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Return what a function gives; where a graph is recorded, of all that it sees only its inputs are kept."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)
