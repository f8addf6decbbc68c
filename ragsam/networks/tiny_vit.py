"""TinyViT, the image encoder of LiteMedSAM and MobileSAM, at any image size that its stride divides.

Convolutional blocks come first, then three stages of transformer blocks that attend in windows. The parameter names are
those of the published files. Normalisation of batches uses the statistics of the weights, in training too.

Source: Wu et al., "TinyViT", 2022 (arXiv:2207.10666); Zhang et al., "Faster Segment Anything" (MobileSAM), 2023
(arXiv:2306.14289); Ma et al., "Segment anything in medical images", 2024 (LiteMedSAM's weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from ragsam.networks.adapter import MLP_SCALE, Adapter
from ragsam.networks.checkpointing import checkpoint_blocks, recomputed
from ragsam.networks.frequency import FrequencyPrompts
from ragsam.networks.fused import convolve
from ragsam.networks.linear import Linear

WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
#: Pixels of the embedding's stride: LiteMedSAM's embeds single pixels, MobileSAM's patches of 4.
STRIDES = (4, 16)
#: Of a stage's input to its output: the last stage stays at the resolution of the third.
_MERGING_STRIDES = (2, 2, 1)


class ConvNorm(nn.Module):
    """A convolution without bias and a batch normalisation by fixed statistics, applied as one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """Map `x` [B, inputs, H, W] to [B, outputs, H / stride, W / stride], through GELU if asked for."""
        bn, c = self.bn, self.c
        scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
        bias = bn.bias - bn.running_mean * scale
        weight = c.weight * scale[:, None, None, None]
        return convolve(x, weight, bias, stride=c.stride[0], groups=c.groups, gelu=gelu)


class PatchEmbed(nn.Module):
    """Two convolutions to 64 channels: of single pixels, or at stride 4."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        kernel, step = (1, 1) if stride == 1 else (3, 2)
        self.seq = nn.Sequential(
            ConvNorm(3, WIDTHS[0] // 2, kernel, stride=step),
            nn.GELU(),  # its place in the names of the published files
            ConvNorm(WIDTHS[0] // 2, WIDTHS[0], kernel, stride=step),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, _, second = self.seq
        return second(first(x, gelu=True))


class MBConv(nn.Module):
    """An inverted bottleneck with a skip, [B, C, H, W] to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 4 * width
        self.conv1 = ConvNorm(width, inner)
        self.conv2 = ConvNorm(inner, inner, 3, groups=inner)
        self.conv3 = ConvNorm(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x, gelu=True), gelu=True)
        return F.gelu(self.conv3(inner) + x)


class PatchMerging(nn.Module):
    """From one stage to the next, [B, C, H, W] to [B, outputs, H / stride, W / stride]."""

    def __init__(self, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride=stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x, gelu=True), gelu=True))


class WindowAttention(nn.Module):
    """Attention within windows of tokens, with a learnt bias for each distance in rows and columns.

    Tokens beyond the grid are those of the normalisation of zeros.

    Args:
        width: C.
        num_heads: heads; query, key and value stand together for each of them in `qkv`.
        window: side of a window, tokens.
    """

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        self.recompute = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the update of tokens [B, H, W, C]."""
        if self.recompute and self.training:
            return recomputed(self._attend, x)
        return self._attend(x)

    def _attend(self, x: Tensor) -> Tensor:
        side = self.window
        batch, rows, columns, width = x.shape
        x = self.norm(F.pad(x, (0, 0, 0, -columns % side, 0, -rows % side)))
        down, across = x.shape[1] // side, x.shape[2] // side
        windows = x.view(batch, down, side, across, side, width).transpose(2, 3).reshape(-1, side * side, width)
        qkv = self.qkv(windows).unflatten(-1, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        query, key, value = qkv.unbind(0)  # [N, heads, tokens, C / heads] each
        bias = self.attention_biases[:, _distances(side).to(x.device)].to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        out = self.proj(out.transpose(1, 2).flatten(2))
        out = out.view(batch, down, across, side, side, width).transpose(2, 3).reshape(x.shape)
        return out[:, :rows, :columns]


@cache
def _distances(side: int) -> Tensor:
    """Return the number [side^2, side^2] of the distance, |rows| * side + |columns|, of each two tokens of a window."""
    with torch.device("cpu"):
        row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        row, column = row.flatten(), column.flatten()
        return (row[:, None] - row).abs() * side + (column[:, None] - column).abs()


class Mlp(nn.Module):
    """The MLP of a block; `normed` is what its layers and an adapter beside them take."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)

    def forward(self, normed: Tensor) -> Tensor:
        if isinstance(self.fc1, Linear):
            return self.fc2(self.fc1.gelu(normed))
        return self.fc2(F.gelu(self.fc1(normed)))


class TinyViTBlock(nn.Module):
    """A transformer block: attention in windows with a skip, a depthwise convolution, and an MLP with a skip.

    Attributes:
        dim: C.
        space_adapter, mlp_adapter: see `ragsam.networks.adapter`; None if absent.
    """

    #: The layers of the MLP, by the names in a published file.
    mlp_layers = ("fc1", "fc2")

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.dim = width
        self.attn = WindowAttention(width, num_heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width)
        self.space_adapter: Adapter | None = None
        self.mlp_adapter: Adapter | None = None
        self.recompute_mlp = False

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens [B, H, W, C]."""
        update = self.attn(x)
        if self.space_adapter is not None:
            update = update + self.space_adapter(update)
        x = self.local_conv((x + update).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        normed = self.mlp.norm(x)
        recompute = self.recompute_mlp and self.training
        update = recomputed(self.mlp, normed) if recompute else self.mlp(normed)
        if self.mlp_adapter is not None:
            update = update + MLP_SCALE * self.mlp_adapter(normed)
        return x + update


class Stage(nn.Module):
    """Blocks of one width, and the merging to the next stage's, None after the last."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width = WIDTHS[index]
        self.blocks = nn.ModuleList()
        for _ in range(DEPTHS[index]):
            block = MBConv(width) if index == 0 else TinyViTBlock(width, HEADS[index], WINDOWS[index])
            self.blocks.append(block)
        self.downsample: PatchMerging | None = None
        if index + 1 < len(WIDTHS):
            self.downsample = PatchMerging(width, WIDTHS[index + 1], _MERGING_STRIDES[index])


class TinyViT(nn.Module):
    """TinyViT of 5 million parameters with SAM's neck; see `ragsam.networks.encoders.Encoder`.

    Args:
        img_size: side of the image, pixels; a multiple of the stride.
        patch_size: stride of the embedding, pixels: 4 as LiteMedSAM, 16 as MobileSAM.
        out_chans: channels of the embedding.

    Attributes:
        frequency: frequency prompts of the stages of transformer blocks, None if absent.

    Raises:
        ValueError: another stride.
    """

    family = "tiny_vit"
    #: Query, key and value stand together for each head in the fused layer.
    qkv_by_head = True

    def __init__(self, *, img_size: int, patch_size: int, out_chans: int) -> None:
        super().__init__()
        if patch_size not in STRIDES:
            raise ValueError(f"patch_size {patch_size}: a TinyViT has 4, as LiteMedSAM, or 16, as MobileSAM")
        first = patch_size // 4
        self.img_size = img_size
        self.finer_channels: Mapping[int, int] = {first: WIDTHS[0], 2 * first: WIDTHS[1]}
        self.patch_embed = PatchEmbed(first)
        self.layers = nn.ModuleList(Stage(index) for index in range(len(WIDTHS)))
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], out_chans, 1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )
        self.frequency: nn.ModuleList | None = None
        self.checkpointing: str | None = None

    @property
    def blocks(self) -> list[TinyViTBlock]:
        """The transformer blocks, where what tunes goes."""
        return [block for stage in self.layers[1:] for block in stage.blocks]

    def train(self, mode: bool = True) -> TinyViT:
        """Set the mode; the statistics of batches are the weights' in both."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

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
            raise ValueError("frequency.as_published: is for SAM-Adapter's files, which have no TinyViT; leave it out")
        last = max(self.finer_channels)
        strides = (last, 2 * last, 2 * last)
        self.frequency = nn.ModuleList()
        for width, depth, stride in zip(WIDTHS[1:], DEPTHS[1:], strides, strict=True):
            self.frequency.append(FrequencyPrompts(width, depth, stride, **options))

    def init_positions(self) -> None:
        """Leave the learnt biases at zero; there is no table of positions."""

    def forward(self, x: Tensor, *, image: Tensor | None = None, stack: int = 1) -> Tensor:
        """Encode slices [B, 3, H, W]: [B, out_chans, H / stride, W / stride]."""
        return self.features(x)[0]

    def features(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the embedding of slices [B, 3, H, W], and features at finer strides, see `finer`."""
        x, finer = self._first_stages(image)
        for index in range(2, len(self.layers)):
            x = self._run_stage(index, self.layers[index - 1].downsample(x), image)
        return self.neck(x), finer

    def finer(self, image: Tensor) -> dict[int, Tensor]:
        """Return the features of slices [B, 3, H, W] by stride, each [B, channels, H / stride, W / stride]."""
        return self._first_stages(image)[1]

    def _first_stages(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        x = self.patch_embed(image.contiguous(memory_format=torch.channels_last))  # depthwise kernels are faster so
        found = []
        for index in (0, 1):
            if index:
                x = self.layers[0].downsample(x)
            x = self._run_stage(index, x, image)
            found.append(x)
        return x, dict(zip(self.finer_channels, found, strict=True))

    def _run_stage(self, index: int, x: Tensor, image: Tensor) -> Tensor:
        """Run the blocks of a stage on [B, C, h, w]."""
        stage = self.layers[index]
        if index == 0:
            for block in stage.blocks:
                x = self._run_block(block, x)
            return x
        x = x.permute(0, 2, 3, 1)
        prompts = None
        if self.frequency is not None:
            prompts = self.frequency[index - 1](image, x)
        for block in stage.blocks:
            if prompts is not None:
                x = x + next(prompts)
            x = self._run_block(block, x)
        return x.permute(0, 3, 1, 2)

    def _run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.checkpointing == "blocks" and self.training:
            return recomputed(block, x)
        return block(x)
