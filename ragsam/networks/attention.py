"""The encoder's attention with relative positions, exact, through fused `scaled_dot_product_attention`."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn

from ragsam.networks.checkpointing import recomputed
from ragsam.networks.inference_mode import is_plain_inference
from ragsam.networks.linear import Linear

#: Queries, and scores a head, whose bias is written out at once: more than these leave a CPU's cache.
QUERIES_AT_ONCE = 128
SCORES_AT_ONCE = 2**20


class Strip(NamedTuple):
    """Rows, or columns, of a grid that windows cut alike.

    Attributes:
        start: its first row on the grid.
        count: windows, one behind the other.
        size: rows of a window that are on the grid.
        padded: rows of a window that lie beyond it.
    """

    start: int
    count: int
    size: int
    padded: int

    @property
    def part(self) -> slice:
        return slice(self.start, self.start + self.count * self.size)


class Attention(nn.Module):
    """SAM's multi-head attention over a grid of tokens or in its windows, with decomposed relative positions.

    The bias of a pair of tokens is rel_h[query, key's row] + rel_w[query, key's column], which is a dot product too:
    queries are lengthened by their rel_h and rel_w, keys by the one-hot code of their row and column. So a plain fused
    attention gives the same result without a score matrix in memory.

    SAM pads windows that reach beyond the grid with zeros, so that key and value there are the projection's bias; any
    other padding is one token too.
    Tokens of one key and value that differ in their row alone are as one whose rel_h is the logarithm of the sum of
    their exponentials; so a window's padded rows are one more row, its padded columns one more column, and a padded
    token is never multiplied. Parameters are named as segment-anything's are.

    Args:
        dim: C, channels of a token.
        num_heads: heads, each of C / num_heads channels.
        grid: rows and columns of tokens.
        window_size: side of a window, tokens; 0 attends over the whole grid.

    Attributes:
        recompute: keeps nothing but queries, keys and values for the backward pass of a training.

    Source: Li et al., "MViTv2", arXiv:2112.01526 (the positions); Kirillov et al., arXiv:2304.02643 (SAM).
    """

    def __init__(self, dim: int, *, num_heads: int, grid: tuple[int, int], window_size: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        rows, columns = self.window = (window_size, window_size) if window_size else grid
        self.strips = _strips(grid[0], rows), _strips(grid[1], columns)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, dim // num_heads))
        self.recompute = False

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Let the tokens of each grid [B, H, W, C] attend to those of their window.

        Args:
            padding: [C], a token beyond the grid; None pads with zeros.
        """
        qkv = self.qkv(x)
        padded = self.qkv.bias if padding is None else self.qkv(padding[None])[0]
        rows, columns = self.window
        table_h = get_rel_pos(rows, rows, self.rel_pos_h).to(qkv.dtype)
        table_w = get_rel_pos(columns, columns, self.rel_pos_w).to(qkv.dtype)
        attend = self._attend
        if self.recompute and self.training:
            attend = partial(recomputed, self._attend)
        row_strips, column_strips = self.strips
        bands = []
        for row in row_strips:
            parts = [attend(qkv, row, column, table_h, table_w, padded) for column in column_strips]
            bands.append(torch.cat(parts, dim=2))
        return self.proj(torch.cat(bands, dim=1))

    def along(self, x: Tensor) -> Tensor:
        """Let the tokens of each sequence [N, L, C] attend to each other by the same projections, without positions."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def _attend(
        self, qkv: Tensor, row: Strip, column: Strip, table_h: Tensor, table_w: Tensor, padded: Tensor
    ) -> Tensor:
        """Return what the tokens where two strips cross take from their windows.

        Args:
            qkv: [B, H, W, 3 C].
            row, column: the strips.
            table_h, table_w: [side, side, C / heads], of a window.
            padded: [3 C], of a token beyond the grid.

        Returns:
            [B, rows, columns, C] of those tokens.
        """
        windows = qkv[:, row.part, column.part].unflatten(-1, (3, self.num_heads, -1))
        windows = windows.unflatten(2, (column.count, column.size)).unflatten(1, (row.count, row.size))
        # [B, windows down, across, heads, h, w, C / heads] each
        query, key, value = windows.permute(5, 0, 1, 3, 6, 2, 4, 7).unbind(0)
        rel_h = torch.einsum("...hwc,hkc->...hwk", query, table_h[: row.size])
        rel_w = torch.einsum("...hwc,wkc->...hwk", query, table_w[: column.size])
        rel_h = _folded(rel_h, row)
        rel_w = _folded(rel_w, column)
        _, padded_key, padded_value = padded.to(qkv.dtype).view(3, self.num_heads, 1, 1, -1).unbind(0)
        key = _padded(key, padded_key, row, column)
        value = _padded(value, padded_value, row, column)
        attend = _attend_in_parts if is_plain_inference(qkv) else _attend_at_once
        out = attend(query, key, value, rel_h, rel_w, self.scale)
        out = out.unflatten(2, (row.size, column.size)).unflatten(0, (-1, row.count, column.count))
        return out.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def _strips(side: int, window: int) -> list[Strip]:
    """Return the strips of a grid's side: whole windows, then the one that reaches beyond."""
    count, rest = divmod(side, window)
    strips = [Strip(0, count, window, 0), Strip(count * window, 1, rest, window - rest)]
    return [strip for strip in strips if strip.count and strip.size]


def _folded(rel: Tensor, strip: Strip) -> Tensor:
    """Return rel [..., window] with the padded places as one."""
    if not strip.padded:
        return rel
    return torch.cat([rel[..., : strip.size], rel[..., strip.size :].logsumexp(-1, keepdim=True)], dim=-1)


def _padded(x: Tensor, beyond: Tensor, row: Strip, column: Strip) -> Tensor:
    """Return keys or values [..., heads, h, w, c] with those beyond the grid [heads, 1, 1, c] as a row and a column."""
    if row.padded:
        x = torch.cat([x, beyond.expand(*x.shape[:-3], 1, *x.shape[-2:])], dim=-3)
    if column.padded:
        x = torch.cat([x, beyond.expand(*x.shape[:-2], 1, x.shape[-1])], dim=-2)
    return x


def _attend_at_once(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Return what each query takes, [N, heads, h * w, c], the bias folded into longer queries and keys.

    Args:
        query, key, value: of `Attention._windows`, keys and values with what is padded.
        rel_h, rel_w: [..., heads, h, w, rows or columns of the keys].
    """
    rows, columns, channels = key.shape[-3:]
    row_codes = torch.eye(rows, dtype=key.dtype, device=key.device)[:, None].expand(-1, columns, -1)
    column_codes = torch.eye(columns, dtype=key.dtype, device=key.device).expand(rows, -1, -1)
    places = torch.cat([row_codes, column_codes], dim=-1)  # one-hot, [rows, columns, rows + columns]
    query = torch.cat([query * scale, rel_h, rel_w], dim=-1)
    key = torch.cat([key, places.expand(*key.shape[:-1], -1)], dim=-1)
    value = F.pad(value, (0, rows + columns))  # fused kernels want one width
    out = F.scaled_dot_product_attention(_flat(query), _flat(key), _flat(value), scale=1.0)
    return out[..., :channels]


def _attend_in_parts(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor, rel_w: Tensor, scale: float) -> Tensor:
    """Return the same, the bias of some queries at a time written out, which takes a CPU less time."""
    query, key, value, rel_h, rel_w = map(_flat, (query, key, value, rel_h, rel_w))
    count = max(1, min(QUERIES_AT_ONCE, SCORES_AT_ONCE // key.shape[2]))
    outs = []
    for part, down, across in zip(query.split(count, 2), rel_h.split(count, 2), rel_w.split(count, 2), strict=True):
        bias = (down[..., :, None] + across[..., None, :]).flatten(-2).to(part)
        outs.append(F.scaled_dot_product_attention(part, key, value, attn_mask=bias, scale=scale))
    return torch.cat(outs, dim=2)


def _flat(x: Tensor) -> Tensor:
    """Return tokens [B, windows down, across, heads, h, w, c] as sequences [N, heads, h * w, c]."""
    return x.flatten(0, 2).flatten(2, 3)
