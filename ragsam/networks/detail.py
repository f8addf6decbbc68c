"""The detail branch: fine convolutional features for SAM, whose masks are coarse on small organs.

A small stem sees the image at strides 1, 2 and 4. Its features enter the mask decoder's upscaling at the same strides,
up to full resolution, where one residual block precedes the product with the mask tokens. In a network trained from
scratch the stem also feeds the patch embedding. On pretrained weights it leaves the patch embedding alone and starts
at exactly zero effect.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STEM_CHANNELS = {1: 32, 2: 48, 4: 64}


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(8, outputs), nn.GELU())


class DetailStem(nn.Module):
    """Convolutions at strides 1, 2 and 4."""

    def __init__(self) -> None:
        super().__init__()
        widths = list(STEM_CHANNELS.values())
        self.stages = nn.ModuleList(
            _block(inputs, outputs, stride)
            for inputs, outputs, stride in zip([3, *widths], widths, (1, 2, 2), strict=False)
        )

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Return features by stride: {1: [B, 32, H, W], 2: [B, 48, H/2, W/2], 4: [B, 64, H/4, W/4]}."""
        features, x = {}, image
        for stride, stage in zip(STEM_CHANNELS, self.stages, strict=True):
            x = features[stride] = stage(x)
        return features


class StemPatchEmbed(nn.Module):
    """Patch embedding on the stem's stride-4 features: [B, 64, H/4, W/4] to [B, h, w, C].

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
        zero_init: start with no effect at all, for pretrained weights.

    Raises:
        ValueError: a patch size that is not a power of two from 4 on, which doubling could not bring to full size.
    """

    def __init__(self, dim: int, patch_size: int, *, zero_init: bool) -> None:
        super().__init__()
        if patch_size < 4 or patch_size & (patch_size - 1):
            raise ValueError(f"patch_size {patch_size} is not 4, 8, 16, 32, ..., as the detail branch needs")
        self.patch_size = patch_size
        channels = {patch_size // 2: dim // 4, patch_size // 4: dim // 8}
        stride = patch_size // 4
        while stride > 1:
            stride //= 2
            channels[stride] = dim // 8
        self.skips = nn.ModuleDict(
            {str(s): nn.Conv2d(STEM_CHANNELS[s], width, 1) for s, width in channels.items() if s in STEM_CHANNELS}
        )
        out = dim // 8
        self.norm = nn.GroupNorm(8, out)
        self.block = nn.Sequential(
            nn.Conv2d(out, out, 3, padding=1), nn.GroupNorm(8, out), nn.GELU(), nn.Conv2d(out, out, 3, padding=1)
        )
        self.gate = nn.Conv2d(out, out, 1)
        if zero_init:
            inside = [skip for stride, skip in self.skips.items() if int(stride) >= patch_size // 4]
            for layer in (*inside, self.gate):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        else:
            nn.init.dirac_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def skip(self, x: Tensor, stem: dict[int, Tensor], stride: int) -> Tensor:
        """Add the stem's features of that stride to `x`, where there are any."""
        key = str(stride)
        return x + self.skips[key](stem[stride]) if key in self.skips else x

    def to_full_resolution(self, x: Tensor, stem: dict[int, Tensor]) -> Tensor:
        """Carry the decoder's last features [B, C/8, H/s, W/s] to [B, C/8, H, W], ready for a fusion."""
        stride = self.patch_size // 4
        while stride > 1:
            stride //= 2
            x = self.skip(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), stem, stride)
        return F.gelu(self.norm(x))

    def finish(self, x: Tensor) -> Tensor:
        """Apply the residual block and the gate to full-resolution features."""
        return self.gate(x + self.block(x))
