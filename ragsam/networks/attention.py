"""The encoder's attention with relative positions, exact, through fused `scaled_dot_product_attention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn


class Attention(nn.Module):
    """SAM's multi-head attention over a grid of tokens, with decomposed relative positions.

    The bias of a pair of tokens is rel_h[query, key's row] + rel_w[query, key's column], which is a dot product too:
    queries are lengthened by their rel_h and rel_w, keys by the one-hot code of their row and column. So a plain fused
    attention gives the same result without a score matrix in memory. Parameters are named as segment-anything's are.

    Args:
        dim: C, channels of a token.
        num_heads: heads, each of C / num_heads channels.
        input_size: rows and columns of the grid, or of a window.

    Source: Li et al., "MViTv2", arXiv:2112.01526 (the positions); Kirillov et al., arXiv:2304.02643 (SAM).
    """

    def __init__(self, dim: int, *, num_heads: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        rows, columns = input_size
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Let the tokens of each grid [B, H, W, C] attend to each other."""
        batch, rows, columns, dim = x.shape
        query, key, value = self._heads(x.flatten(1, 2))
        towards = query.unflatten(2, (rows, columns))
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", towards, get_rel_pos(rows, rows, self.rel_pos_h).to(query.dtype))
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", towards, get_rel_pos(columns, columns, self.rel_pos_w).to(query.dtype))
        place = _places(rows, columns, query).expand(batch, self.num_heads, -1, -1)
        query = torch.cat([query * self.scale, rel_h.flatten(2, 3), rel_w.flatten(2, 3)], dim=-1)
        key = torch.cat([key, place], dim=-1)
        value = F.pad(value, (0, rows + columns))  # fused kernels want one width
        out = F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., : dim // self.num_heads]
        return self.proj(out.transpose(1, 2).reshape(batch, rows, columns, dim))

    def along(self, x: Tensor) -> Tensor:
        """Let the tokens of each sequence [N, L, C] attend to each other by the same projections, without positions."""
        query, key, value = self._heads(x)
        out = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project tokens [B, N, C] to queries, keys and values, each [B, heads, N, C / heads]."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


def _places(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return the one-hot codes of each token's row and column: [rows * columns, rows + columns]."""
    row = torch.eye(rows, dtype=like.dtype, device=like.device).repeat_interleave(columns, dim=0)
    column = torch.eye(columns, dtype=like.dtype, device=like.device).repeat(rows, 1)
    return torch.cat([row, column], dim=1)
