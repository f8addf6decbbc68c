"""The detail branch: fine convolutional features for SAM, whose masks are coarse on small organs.

A stem of residual convolutions sees the image at strides 1, 2 and 4. Its features enter the mask decoder's upscaling at
the same strides, a residual block mixing them in at each, up to full resolution, where few channels are enough and the
product with the mask tokens follows. Most of the branch's arithmetic is at strides 2 and 4, where a convolution costs a
fraction of one at full resolution. In a network trained from scratch the stem also feeds the patch embedding. On
pretrained weights it leaves the patch embedding alone and starts at exactly zero effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = {1: 16, 2: 48, 4: 96}

#: Channels at full resolution, where the fusion of supports enters.
FULL_CHANNELS = 16

#: How much rarer than background an organ is before anything is learnt. Masks have no constant term of their own:
#: without this one the features of a network trained from scratch would first learn that nearly all is background, and
#: organs be hard to distinguish in them. Source: Lin et al., "Focal Loss for Dense Object Detection", 2017
#: (arXiv:1708.02002), 3.3.
RARITY = 0.01


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, normalised and activated before each, added to their input [B, C, H, W].

    Args:
        channels: C, a multiple of 8.

    Source: He et al., "Identity Mappings in Deep Residual Networks", 2016 (arXiv:1603.05027).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _zero(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class DetailStem(nn.Module):
    """Convolutions at strides 1, 2 and 4; at strides above 1 a residual block follows."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        inputs = 3
        for stride, outputs in STEM_CHANNELS.items():
            convolution = nn.Conv2d(inputs, outputs, 3, stride=min(stride, 2), padding=1)
            stage = nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.GELU())
            if stride > 1:
                stage.append(ResidualBlock(outputs))
            self.stages.append(stage)
            inputs = outputs

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Return features by stride: {1: [B, 16, H, W], 2: [B, 48, H/2, W/2], 4: [B, 96, H/4, W/4]}."""
        features = {}
        x = image
        for stride, stage in zip(STEM_CHANNELS, self.stages, strict=True):
            x = stage(x)
            features[stride] = x
        return features


class StemPatchEmbed(nn.Module):
    """Patch embedding on the stem's stride-4 features: [B, 96, H/4, W/4] to [B, h, w, C].

    Raises:
        ValueError: a patch size that 4 does not divide.
    """

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        if patch_size % 4:
            raise ValueError(f"patch_size {patch_size} is not a multiple of 4, as the detail branch needs")
        self.proj = nn.Conv2d(STEM_CHANNELS[4], embed_dim, patch_size // 4, stride=patch_size // 4)

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(features).permute(0, 2, 3, 1)


class DetailDecoder(nn.Module):
    """Skips of the stem into the decoder's upscaling, and features at full resolution for the mask product.

    Args:
        dim: channels of the image embedding (256 in SAM); the decoder upscales to dim / 4, then dim / 8.
        patch_size: stride of the embedding, pixels.
        num_classes: with background (K + 1).
        channels: of the features by stride, those of `DetailStem` or of an encoder that has its own.
        zero_init: start with no effect at all, for pretrained weights.

    Attributes:
        prior: [K + 1], what the classes' logits start from, see `RARITY`; None on pretrained weights.

    Raises:
        ValueError: a patch size that is not a power of two from 4 on, which doubling could not bring to full size.
    """

    def __init__(
        self,
        dim: int,
        patch_size: int,
        num_classes: int,
        *,
        zero_init: bool,
        channels: Mapping[int, int] = STEM_CHANNELS,
    ) -> None:
        super().__init__()
        if patch_size < 4 or patch_size & (patch_size - 1):
            raise ValueError(f"patch_size {patch_size} is not 4, 8, 16, 32, ..., as the detail branch needs")
        self.patch_size = patch_size
        width = dim // 8
        inside = (patch_size // 2, patch_size // 4)  # strides of SAM's own upscaling
        widths = {4: width, 2: width, 1: FULL_CHANNELS}
        widths |= {inside[0]: dim // 4, inside[1]: width}
        strides = [stride for stride in (4, 2, 1) if stride <= inside[0]]
        self.skips = nn.ModuleDict()
        for stride in strides:
            self.skips[str(stride)] = nn.Conv2d(channels[stride], widths[stride], 1)
        self.blocks = nn.ModuleDict()
        for stride in strides:
            if stride > 1:
                self.blocks[str(stride)] = ResidualBlock(widths[stride])
        self.narrow = nn.Conv2d(width, FULL_CHANNELS, 1)
        self.norm = nn.GroupNorm(8, FULL_CHANNELS)
        self.block = nn.Sequential(
            nn.Conv2d(FULL_CHANNELS, FULL_CHANNELS, 3, padding=1),
            nn.GroupNorm(8, FULL_CHANNELS),
            nn.GELU(),
            nn.Conv2d(FULL_CHANNELS, FULL_CHANNELS, 3, padding=1),
        )
        self.gate = nn.Conv2d(FULL_CHANNELS, width, 1)
        self.prior: nn.Parameter | None = None
        if zero_init:
            for layer in self._gates():
                _zero(layer)
        else:
            rare = torch.full((num_classes,), math.log(RARITY))
            rare[0] = 0.0
            self.prior = nn.Parameter(rare)
            nn.init.dirac_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def _gates(self) -> list[nn.Conv2d]:
        """Return the layers that are zero as long as the branch has no effect on pretrained weights."""
        gates = [self.gate]
        for key in (str(self.patch_size // 2), str(self.patch_size // 4)):
            if key in self.skips:
                gates.append(self.skips[key])
            if key in self.blocks:
                gates.append(self.blocks[key].layers[-1])
        return gates

    def is_idle(self) -> bool:
        """Whether it still has no effect at all, as at the start on pretrained weights."""
        return not any(gate.weight.any() or gate.bias.any() for gate in self._gates())

    def skip(self, x: Tensor, stem: dict[int, Tensor], stride: int) -> Tensor:
        """Mix the stem's features of that stride into `x`, where there are any."""
        key = str(stride)
        if key in self.skips:
            x = x + self.skips[key](stem[stride])
        if key in self.blocks:
            x = self.blocks[key](x)
        return x

    def to_full_resolution(self, x: Tensor, stem: dict[int, Tensor]) -> Tensor:
        """Carry the decoder's last features [B, C/8, H/s, W/s] to [B, 16, H, W], ready for a fusion."""
        stride = self.patch_size // 4
        while stride > 2:
            stride //= 2
            x = self.skip(_double(x), stem, stride)
        x = self.narrow(x)
        if stride > 1:
            x = self.skip(_double(x), stem, 1)
        return F.gelu(self.norm(x))

    def finish(self, x: Tensor) -> Tensor:
        """Turn full-resolution features [B, 16, H, W] into those of the mask product [B, C/8, H, W]."""
        return self.gate(x + self.block(x))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
