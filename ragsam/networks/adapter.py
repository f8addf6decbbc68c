"""Adapters: small bottlenecks beside the frozen layers of a transformer block, as Medical-SAM-Adapter places them.

Source: Wu et al., "Medical SAM Adapter", arXiv:2304.12620; Houlsby et al., arXiv:1902.00751 (the bottleneck).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

#: What the adapter beside the MLP is multiplied by.
MLP_SCALE = 0.5


class Adapter(nn.Module):
    """Linear C to C / 4, GELU, linear back to C.

    The last layer starts at zero, so that a block is unchanged until it is trained. The original starts at random and
    so moves the base's output from the first step on.

    Args:
        dim: C.
        ratio: of the bottleneck's width to C.
    """

    def __init__(self, dim: int, *, ratio: float = 0.25) -> None:
        super().__init__()
        width = int(dim * ratio)
        if width < 1:
            raise ValueError(f"adapter ratio {ratio} leaves no channel of {dim}; choose a larger one")
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of tokens [..., C]; without a skip."""
        return self.up(F.gelu(self.down(x)))


def add_adapters(
    encoder: nn.Module,
    *,
    space: bool = True,
    mlp: bool = True,
    depth: bool = False,
    ratio: float = 0.25,
    positions: bool = True,
    normed_padding: bool = False,
) -> None:
    """Add adapters to every block of an image encoder, in place.

    Args:
        encoder: see `ragsam.networks.encoders.Encoder`.
        space: after the attention, with a skip.
        mlp: beside the MLP, times 0.5.
        depth: after the same attention along a stack of neighbouring slices.
        ratio: of the bottleneck's width to the block's.
        positions: False sets SAM's relative positions to zero, for weights that were trained without them.
        normed_padding: tokens beyond the grid are what the block's first norm makes of zeros, as in
            Medical-SAM-Adapter up to 2023-12, which cuts windows before that norm; else they are zeros, as in SAM.

    Raises:
        ValueError: none of the three, a ratio that leaves no channel, or what only SAM's ViT has.
    """
    if not any((space, mlp, depth)):
        raise ValueError("adapters: none of space, mlp and depth is on; switch one on, or leave adapters out")
    if encoder.family != "vit" and (depth or normed_padding or not positions):
        raise ValueError("adapters: depth, positions and normed_padding are of SAM's ViT alone; leave them out")
    for block in encoder.blocks:
        dim = block.dim
        if space:
            block.space_adapter = Adapter(dim, ratio=ratio)
        if mlp:
            block.mlp_adapter = Adapter(dim, ratio=ratio)
        if depth:
            block.depth_adapter = Adapter(dim, ratio=ratio)
        if encoder.family == "vit":
            block.normed_padding = normed_padding
        if not positions:
            nn.init.zeros_(block.attn.rel_pos_h)
            nn.init.zeros_(block.attn.rel_pos_w)
