"""The detail branch: fine convolutional features for SAM, whose masks are coarse on small organs.

A stem of residual convolutions sees the image at strides 1, 2 and 4. Its features enter the mask decoder's upscaling at
the same strides, a residual block mixing them in at each, up to full resolution, where few channels are enough and the
product with the mask tokens follows. Most of the branch's arithmetic is at strides 2 and 4, where a convolution costs a
fraction of one at full resolution. In a network trained from scratch the stem also feeds the patch embedding. On
pretrained weights it leaves the patch embedding alone and starts at exactly zero effect.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = {1: 16, 2: 48, 4: 96}

#: Channels at full resolution, where the fusion of supports enters.
FULL_CHANNELS = 16

#: How much rarer than background an organ is before anything is learnt. Masks have no constant term of their own:
#: without this one the features of a network trained from scratch would first learn that nearly all is background, and
#: organs be hard to tell apart in them. Source: Lin et al., "Focal Loss for Dense Object Detection", 2017
#: (arXiv:1708.02002), 3.3.
RARITY = 0.01


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, normalised and activated before each, added to their input [B, C, H, W].

    Args:
        channels: C, a multiple of 8.
        zero_init: start as the identity.

    Source: He et al., "Identity Mappings in Deep Residual Networks", 2016 (arXiv:1603.05027).
    """

    def __init__(self, channels: int, *, zero_init: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.GroupNorm(8, channels), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        if zero_init:
            _zero(layers[-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _zero(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a convolution to `outputs` channels; at strides above 1 a residual block follows."""
    layers = [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(8, outputs), nn.GELU()]
    return nn.Sequential(*layers, *([ResidualBlock(outputs)] if stride > 1 else []))


class DetailStem(nn.Module):
    """Convolutions at strides 1, 2 and 4."""

    def __init__(self) -> None:
        super().__init__()
        widths = list(STEM_CHANNELS.values())
        self.stages = nn.ModuleList(
            _stage(inputs, outputs, stride)
            for inputs, outputs, stride in zip([3, *widths], widths, (1, 2, 2), strict=False)
        )

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Return features by stride: {1: [B, 16, H, W], 2: [B, 48, H/2, W/2], 4: [B, 96, H/4, W/4]}."""
        features, x = {}, image
        for stride, stage in zip(STEM_CHANNELS, self.stages, strict=True):
            x = features[stride] = stage(x)
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
        zero_init: start with no effect at all, for pretrained weights.

    Attributes:
        prior: [K + 1], what the classes' logits start from, see `RARITY`; None on pretrained weights.

    Raises:
        ValueError: a patch size that is not a power of two from 4 on, which doubling could not bring to full size.
    """

    def __init__(self, dim: int, patch_size: int, num_classes: int, *, zero_init: bool) -> None:
        super().__init__()
        if patch_size < 4 or patch_size & (patch_size - 1):
            raise ValueError(f"patch_size {patch_size} is not 4, 8, 16, 32, ..., as the detail branch needs")
        self.patch_size = patch_size
        width = dim // 8
        channels = {patch_size // 2: dim // 4, patch_size // 4: width}  # inside SAM's own upscaling
        inside = set(channels)
        for stride in (8, 4, 2, 1):
            if stride < patch_size // 4:
                channels[stride] = FULL_CHANNELS if stride == 1 else width
        self.skips = nn.ModuleDict(
            {str(s): nn.Conv2d(STEM_CHANNELS[s], count, 1) for s, count in channels.items() if s <= 4}
        )
        self.blocks = nn.ModuleDict(
            {str(s): ResidualBlock(channels[s], zero_init=zero_init and s in inside) for s in channels if 1 < s <= 4}
        )
        self.narrow = nn.Conv2d(width, FULL_CHANNELS, 1)
        self.norm = nn.GroupNorm(8, FULL_CHANNELS)
        self.block = nn.Sequential(
            nn.Conv2d(FULL_CHANNELS, FULL_CHANNELS, 3, padding=1),
            nn.GroupNorm(8, FULL_CHANNELS),
            nn.GELU(),
            nn.Conv2d(FULL_CHANNELS, FULL_CHANNELS, 3, padding=1),
        )
        self.gate = nn.Conv2d(FULL_CHANNELS, width, 1)
        rare = [0.0, *[math.log(RARITY)] * (num_classes - 1)]
        self.prior = None if zero_init else nn.Parameter(torch.tensor(rare))
        if zero_init:
            for layer in (*(skip for stride, skip in self.skips.items() if int(stride) in inside), self.gate):
                _zero(layer)
        else:
            nn.init.dirac_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def is_idle(self) -> bool:
        """Whether it still has no effect at all, as at the start on pretrained weights."""
        inside = [str(self.patch_size // 2), str(self.patch_size // 4)]
        gates = [self.skips[key] for key in inside if key in self.skips]
        gates += [self.blocks[key].layers[-1] for key in inside if key in self.blocks]
        return not any(tensor.any() for gate in (*gates, self.gate) for tensor in gate.parameters())

    def skip(self, x: Tensor, stem: dict[int, Tensor], stride: int) -> Tensor:
        """Mix the stem's features of that stride into `x`, where there are any."""
        key = str(stride)
        if key in self.skips:
            x = x + self.skips[key](stem[stride])
        return self.blocks[key](x) if key in self.blocks else x

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
