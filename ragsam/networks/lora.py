"""Low-rank adaptation (LoRA) of the encoder's attention, as SAMed has it.

Source: Hu et al., arXiv:2106.09685; Zhang and Liu, "Customized Segment Anything Model" (SAMed), arXiv:2304.13785.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class QueryValueLoRA(nn.Module):
    """A fused query-key-value projection with a low-rank update of query and value.

    The update starts at zero (B is zero), so the wrapped projection is unchanged until it is trained.

    Args:
        qkv: the projection [..., C] to [..., 3 C].
        rank: rank of each update.
        alpha: the update is multiplied by alpha / rank; None takes rank, a scale of 1.
    """

    def __init__(self, qkv: nn.Linear, *, rank: int = 4, alpha: float | None = None) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank {rank} is not positive; choose 1 or more, or leave LoRA out")
        self.qkv = qkv
        self.scale = (rank if alpha is None else alpha) / rank
        width = qkv.in_features
        self.query_a, self.value_a = (nn.Linear(width, rank, bias=False) for _ in range(2))
        self.query_b, self.value_b = (nn.Linear(rank, width, bias=False) for _ in range(2))
        for down in (self.query_a, self.value_a):
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
        for up in (self.query_b, self.value_b):
            nn.init.zeros_(up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Project `x` [..., C] to [..., 3 C]."""
        out = self.qkv(x)
        width = x.shape[-1]
        query = out[..., :width] + self.scale * self.query_b(self.query_a(x))
        value = out[..., -width:] + self.scale * self.value_b(self.value_a(x))
        out[..., :width] = query
        out[..., -width:] = value
        return out


def add_lora(encoder: nn.Module, *, rank: int = 4, alpha: float | None = None) -> None:
    """Wrap the fused qkv of every block of a SAM image encoder, in place."""
    for block in encoder.blocks:
        block.attn.qkv = QueryValueLoRA(block.attn.qkv, rank=rank, alpha=alpha)
