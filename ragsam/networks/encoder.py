"""The image encoder: SAM's vision transformer at any image and patch size, with places for adapters and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d, MLPBlock
from segment_anything.modeling.image_encoder import PatchEmbed
from torch import Tensor, nn

from ragsam.networks.adapter import MLP_SCALE, Adapter
from ragsam.networks.attention import Attention
from ragsam.networks.checkpointing import checkpoint_blocks, recomputed
from ragsam.networks.frequency import FrequencyPrompts
from ragsam.networks.linear import Linear

_norm = partial(nn.LayerNorm, eps=1e-6)


class Block(nn.Module):
    """A transformer block: attention, in windows or over the whole grid, then an MLP; both with a skip.

    Args:
        dim: C.
        num_heads: heads of the attention.
        window_size: side of a window, tokens; 0 attends over the whole grid.
        grid: rows and columns of tokens.

    Attributes:
        dim: C.
        space_adapter, mlp_adapter, depth_adapter: see `ragsam.networks.adapter`; None where absent.
        normed_padding: see `add_adapters`.
        recompute_mlp: keeps nothing of the MLP's inside for the backward pass, which works it out again.
    """

    #: The layers of the MLP, by their names.
    mlp_layers = ("lin1", "lin2")

    def __init__(self, dim: int, *, num_heads: int, window_size: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.dim = dim
        self.norm1 = _norm(dim)
        self.attn = Attention(dim, num_heads=num_heads, grid=grid, window_size=window_size)
        self.norm2 = _norm(dim)
        self.mlp = MLPBlock(embedding_dim=dim, mlp_dim=4 * dim)
        self.mlp.lin1 = Linear(dim, 4 * dim)
        self.mlp.lin2 = Linear(4 * dim, dim)
        self.space_adapter: Adapter | None = None
        self.mlp_adapter: Adapter | None = None
        self.depth_adapter: Adapter | None = None
        self.normed_padding = False
        self.recompute_mlp = False

    def forward(self, x: Tensor, stack: int = 1) -> Tensor:
        """Transform tokens [B, H, W, C]; in stacks of `stack` neighbouring slices the depth adapter works too."""
        normed = self.norm1(x)
        update = self.attn(normed, self.norm1.bias if self.normed_padding else None)
        if self.space_adapter is not None:
            update = update + self.space_adapter(update)
        if self.depth_adapter is not None and stack > 1:
            update = update + self.depth_adapter(self._attend_along_depth(normed, stack))
        x = x + update
        normed = self.norm2(x)
        mlp = self._recomputed_mlp if self.recompute_mlp and self.training else self.mlp
        update = mlp(normed)
        if self.mlp_adapter is not None:
            update = update + MLP_SCALE * self.mlp_adapter(normed)
        return x + update

    def _recomputed_mlp(self, x: Tensor) -> Tensor:
        """Return what the MLP gives; a second layer that does not train keeps nothing, and need not run again."""
        first, second = self.mlp.lin1, self.mlp.lin2
        if any(parameter.requires_grad for parameter in second.parameters()):
            return recomputed(self.mlp, x)
        hidden = recomputed(lambda tokens: self.mlp.act(first(tokens)), x)
        return second(hidden)

    def _attend_along_depth(self, x: Tensor, stack: int) -> Tensor:
        """Let each token [B * stack, H, W, C] attend to those of its place in the slices of its stack."""
        columns = x.unflatten(0, (-1, stack)).permute(0, 2, 3, 1, 4)  # [B, H, W, stack, C]
        attended = self.attn.along(columns.flatten(0, 2)).view(columns.shape)
        return attended.permute(0, 3, 1, 2, 4).flatten(0, 1)


class ImageEncoder(nn.Module):
    """SAM's image encoder, equal to segment-anything's `ImageEncoderViT`, whose parameter names it has.

    See `ragsam.networks.encoders.Encoder` for what every encoder has.

    Args:
        img_size: side of the image, pixels; a multiple of the patch size.
        patch_size: side of a patch, pixels.
        embed_dim: C, channels of a token.
        depth: number of blocks.
        num_heads: heads of the attention.
        global_blocks: blocks that attend over the whole grid; the others attend in windows.
        window_size: side of a window, tokens; 0 attends over the whole grid everywhere.
        out_chans: channels of the embedding.

    Attributes:
        frequency: frequency prompts, None where absent.
        checkpointing: of `CHECKPOINTING`; see `checkpoint`.
    """

    family = "vit"
    qkv_by_head = False
    finer_channels: Mapping[int, int] = {}

    def __init__(
        self,
        *,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        global_blocks: tuple[int, ...],
        window_size: int,
        out_chans: int,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        patch = (patch_size, patch_size)
        self.patch_embed: nn.Module = PatchEmbed(patch, patch, embed_dim=embed_dim)
        side = img_size // patch_size
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, embed_dim))
        self.blocks = nn.ModuleList()
        for index in range(depth):
            window = 0 if index in global_blocks else window_size
            self.blocks.append(Block(embed_dim, num_heads=num_heads, window_size=window, grid=(side, side)))
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dim, out_chans, 1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )
        self.frequency: FrequencyPrompts | None = None
        self.checkpointing: str | None = None

    def checkpoint(self, what: str | None) -> None:
        """Trade time of training for memory: what is not kept for the backward pass is worked out again there.

        Args:
            what: of `CHECKPOINTING`.

        Raises:
            ValueError: another word.
        """
        checkpoint_blocks(self.blocks, what)
        self.checkpointing = what

    def add_frequency(self, **options: Any) -> None:
        """Add frequency prompts; see `FrequencyPrompts`."""
        dim = self.pos_embed.shape[-1]
        patch_size = self.img_size // self.pos_embed.shape[1]
        self.frequency = FrequencyPrompts(dim, len(self.blocks), patch_size, **options)

    def init_positions(self) -> None:
        """Start the position tables of a network without base weights at random; SAM's start at zero."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for block in self.blocks:
            nn.init.trunc_normal_(block.attn.rel_pos_h, std=0.02)
            nn.init.trunc_normal_(block.attn.rel_pos_w, std=0.02)

    def forward(self, x: Tensor, *, image: Tensor | None = None, stack: int = 1) -> Tensor:
        """Encode slices.

        Args:
            x: [B, 3, H, W], or whatever the patch embedding takes.
            image: [B, 3, H, W], for the frequency prompts, where `x` is something else.
            stack: that many slices in a row of the batch are neighbours in one volume.

        Returns:
            [B, out_chans, h, w].
        """
        if image is None:
            image = x
        patches = self.patch_embed(x)
        tokens = patches + self.pos_embed
        if self.frequency is not None:
            prompts = self.frequency(image, patches)
        for block in self.blocks:
            if self.frequency is not None:
                tokens = tokens + next(prompts)
            if self.checkpointing == "blocks" and self.training:
                tokens = recomputed(block, tokens, stack)
            else:
                tokens = block(tokens, stack)
        return self.neck(tokens.permute(0, 3, 1, 2))
