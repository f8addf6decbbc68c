"""Hiera, the image encoder of SAM 2 and MedSAM2, with the neck that joins its stages; without memory of other frames.

Its four stages work at strides 4, 8, 16 and 32. The neck adds the last one to the third: the embedding, at stride 16.
The first two go to the mask decoder by skips, see `ragsam.networks.skip_decoder`. Parameters have the names of the
published files, but for those that `ragsam.networks.sam2_keys` puts into SAM's words.

Source: Ryali et al., "Hiera", 2023 (arXiv:2306.00989); Ravi et al., "SAM 2", 2024 (arXiv:2408.00714).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn

from ragsam.networks.adapter import MLP_SCALE, Adapter
from ragsam.networks.checkpointing import checkpoint_blocks, recomputed
from ragsam.networks.frequency import FrequencyPrompts
from ragsam.networks.linear import Linear

PATCH_SIZE = 16
_STRIDES = (4, 8, 16, 32)
_norm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True)
class HieraSize:
    """Size of a Hiera.

    Attributes:
        width, num_heads: of the first stage; each later one has twice as many.
        stages: blocks of each stage.
        global_blocks: blocks that attend over the whole grid; the others attend in windows.
        positions: side of the table of positions, which is brought to every grid.
        windows: sides of the windows of each stage, tokens. The first block of a stage has those of the stage before.
    """

    width: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    positions: int = 7
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)

    @property
    def widths(self) -> list[int]:
        """Channels of each stage."""
        return [self.width * 2**stage for stage in range(len(self.stages))]


SIZES: dict[str, HieraSize] = {
    "hiera_tiny": HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "hiera_small": HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "hiera_base_plus": HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), positions=14),
    "hiera_large": HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
}


class MultiScaleAttention(nn.Module):
    """Attention over all tokens of [N, H, W, inputs]; with pooling the queries are those of 2 x 2 tokens each.

    Args:
        inputs, outputs: channels.
        num_heads: heads; `qkv` gives query, key and value of all heads one after the other.
        pool: whether to pool the queries.
    """

    def __init__(self, inputs: int, outputs: int, num_heads: int, *, pool: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pool = pool
        self.qkv = Linear(inputs, 3 * outputs)
        self.proj = Linear(outputs, outputs)
        self.recompute = False

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, H, W, outputs], or half as many rows and columns."""
        if self.recompute and self.training:
            return recomputed(self._attend, x)
        return self._attend(x)

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if self.pool:
            query = pooled(query)
        rows, columns = query.shape[1:3]
        heads = (part.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        out = F.scaled_dot_product_attention(*heads)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (rows, columns)))


def pooled(x: Tensor) -> Tensor:
    """Return the largest of each 2 x 2 tokens of [N, H, W, C]."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


class MultiScaleBlock(nn.Module):
    """A transformer block: attention, in windows or over the whole grid, then an MLP; both with a skip.

    Args:
        inputs, outputs: channels; where they differ a stage begins.
        num_heads: heads.
        window: side of a window, tokens; 0 attends over the whole grid.

    Attributes:
        dim: channels of what the block gives.
        space_adapter, mlp_adapter: see `ragsam.networks.adapter`; None where absent.
        recompute_mlp: see `checkpoint_blocks`.
    """

    #: The layers of the MLP, by their names.
    mlp_layers = ("lin1", "lin2")

    def __init__(self, inputs: int, outputs: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.dim = outputs
        self.window = window
        self.norm1 = _norm(inputs)
        self.attn = MultiScaleAttention(inputs, outputs, num_heads, pool=inputs != outputs)
        self.norm2 = _norm(outputs)
        self.mlp = MLPBlock(embedding_dim=outputs, mlp_dim=4 * outputs)
        self.mlp.lin1 = Linear(outputs, 4 * outputs)
        self.mlp.lin2 = Linear(4 * outputs, outputs)
        self.proj: Linear | None = None
        if inputs != outputs:
            self.proj = Linear(inputs, outputs)
        self.space_adapter: Adapter | None = None
        self.mlp_adapter: Adapter | None = None
        self.recompute_mlp = False

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens [B, H, W, inputs]: [B, H, W, outputs], or half as many where a stage begins."""
        normed = self.norm1(x)
        if self.proj is not None:
            x = pooled(self.proj(normed))
        update = self._attended(normed, x.shape[1:3])
        if self.space_adapter is not None:
            update = update + self.space_adapter(update)
        x = x + update
        normed = self.norm2(x)
        recompute = self.recompute_mlp and self.training
        update = recomputed(self.mlp, normed) if recompute else self.mlp(normed)
        if self.mlp_adapter is not None:
            update = update + MLP_SCALE * self.mlp_adapter(normed)
        return x + update

    def _attended(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return what the attention makes of tokens [B, H, W, inputs]: [B, *grid, outputs]; windows are padded by 0."""
        if not self.window:
            return self.attn(x)
        side = self.window
        windows, padded = window_partition(x, side)
        if self.attn.pool:
            side, padded = side // 2, (padded[0] // 2, padded[1] // 2)
        return window_unpartition(self.attn(windows), side, padded, grid)


class PatchEmbed(nn.Module):
    """Overlapping patches: a 7 x 7 convolution at stride 4, [B, 3, H, W] to [B, H / 4, W / 4, C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 7, stride=4, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class Trunk(nn.Module):
    """The blocks of a Hiera and what they begin with; run by `Hiera`."""

    def __init__(self, size: HieraSize) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(size.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, size.width, size.positions, size.positions))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, size.width, size.windows[0], size.windows[0]))
        self.blocks = nn.ModuleList()
        width, heads, before = size.width, size.num_heads, 0
        for stage, count in enumerate(size.stages):
            for place in range(count):
                inputs, first = width, stage > 0 and place == 0
                if first:
                    width, heads = 2 * width, 2 * heads
                window = size.windows[stage - first]
                if before + place in size.global_blocks:
                    window = 0
                self.blocks.append(MultiScaleBlock(inputs, width, heads, window))
            before += count

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the code of positions [1, *grid, C]: a table for the whole slice, and one that windows repeat."""
        whole = F.interpolate(self.pos_embed, grid, mode="bicubic")
        side = self.pos_embed_window.shape[-1]
        within = self.pos_embed_window.tile(1, 1, grid[0] // side, grid[1] // side)
        return (whole + within).permute(0, 2, 3, 1)


class Neck(nn.Module):
    """1 x 1 convolutions of the stages to the embedding's channels; the first belongs to the last stage."""

    def __init__(self, widths: list[int], channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for width in reversed(widths):
            self.convs.append(nn.ModuleDict({"conv": nn.Conv2d(width, channels, 1)}))

    def forward(self, x: Tensor, stage: int) -> Tensor:
        """Return what a stage [B, C, h, w] gives: [B, channels, h, w]."""
        return self.convs[len(self.convs) - 1 - stage]["conv"](x)


class Hiera(nn.Module):
    """Hiera with SAM 2's neck; see `ragsam.networks.encoders.Encoder`.

    Args:
        size: a name of `SIZES`.
        img_size: side of the image, pixels; a multiple of 32.
        out_chans: channels of the embedding.

    Attributes:
        no_mem_embed: [1, 1, out_chans], what SAM 2 adds to an embedding without memory.
        frequency: frequency prompts of each stage; None if absent.

    Raises:
        ValueError: an image size that 32 does not divide.
    """

    family = "hiera"
    qkv_by_head = False

    def __init__(self, size: str, *, img_size: int, out_chans: int) -> None:
        super().__init__()
        if img_size % _STRIDES[-1]:
            raise ValueError(f"image_size {img_size}: a Hiera needs a multiple of {_STRIDES[-1]}; choose one")
        self.size = SIZES[size]
        self.img_size = img_size
        self.finer_channels: Mapping[int, int] = dict.fromkeys(_STRIDES[:2], out_chans)
        self.trunk = Trunk(self.size)
        self.neck = Neck(self.size.widths, out_chans)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, out_chans))
        self.frequency: nn.ModuleList | None = None
        self.checkpointing: str | None = None

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        return self.trunk.blocks

    @property
    def patch_embed(self) -> PatchEmbed:
        return self.trunk.patch_embed

    def checkpoint(self, what: str | None) -> None:
        """Trade time of training for memory; see `ImageEncoder.checkpoint`."""
        checkpoint_blocks(self.blocks, what)
        self.checkpointing = what

    def add_frequency(self, **options: Any) -> None:
        """Add frequency prompts, each stage's of its own width and stride; see `FrequencyPrompts`.

        Raises:
            ValueError: options of SAM-Adapter's own files, which are of SAM's ViTs.
        """
        if options.get("as_published"):
            raise ValueError("frequency.as_published: is for SAM-Adapter's files, which have no Hiera; leave it out")
        self.frequency = nn.ModuleList()
        for stage, count in enumerate(self.size.stages):
            prompted = count - (stage > 0)  # the first block of a later stage takes the tokens of the one before
            self.frequency.append(FrequencyPrompts(self.size.widths[stage], prompted, _STRIDES[stage], **options))

    def init_positions(self) -> None:
        """Start the tables of positions of a network without base weights at random."""
        for table in (self.trunk.pos_embed, self.trunk.pos_embed_window, self.no_mem_embed):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor, *, image: Tensor | None = None, stack: int = 1) -> Tensor:
        """Encode slices [B, 3, H, W]: [B, out_chans, H / 16, W / 16]."""
        return self.features(x)[0]

    def features(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the embedding of slices [B, 3, H, W], and features at finer strides, see `finer`."""
        *finer, third, last = (self.neck(x, stage) for stage, x in enumerate(self._stages(image)))
        embedding = third + F.interpolate(last, scale_factor=2.0, mode="nearest")
        embedding = embedding + self.no_mem_embed.view(1, -1, 1, 1)
        return embedding, dict(zip(self.finer_channels, finer, strict=True))

    def finer(self, image: Tensor) -> dict[int, Tensor]:
        """Return the features of slices [B, 3, H, W] by stride, each [B, out_chans, H / stride, W / stride]."""
        found = zip(self.finer_channels, enumerate(self._stages(image)), strict=False)
        return {stride: self.neck(x, stage) for stride, (stage, x) in found}

    def _stages(self, image: Tensor) -> Iterator[Tensor]:
        """Yield what each stage gives: [B, C, h, w]."""
        x = self.patch_embed(image)
        x = x + self.trunk.positions(x.shape[1:3])
        start = 0
        for stage, count in enumerate(self.size.stages):
            prompts = None
            for block in self.blocks[start : start + count]:
                if self.frequency is not None and block.proj is None:
                    prompts = prompts or self.frequency[stage](image, x)
                    x = x + next(prompts)
                x = self._run_block(block, x)
            start += count
            yield x.permute(0, 3, 1, 2)

    def _run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.checkpointing == "blocks" and self.training:
            return recomputed(block, x)
        return block(x)
