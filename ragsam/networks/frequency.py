"""Frequency prompts: what is fine in the image, added to the tokens before every block, as in SAM-Adapter.

Source: Chen et al., "SAM-Adapter", arXiv:2304.09148; Liu et al., "Explicit Visual Prompting", arXiv:2303.10883.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrequencyPrompts(nn.Module):
    """Prompts from the image's high frequencies and its patch embedding, one for each block.

    The shared last layer starts at zero, so that the encoder is unchanged until it is trained. The original starts at
    random and so moves the base's output from the first step on.

    Args:
        dim: C, channels of a token; the prompts are worked out in C / reduction channels.
        depth: number of blocks.
        patch_size: pixels.
        rate: share of the spectrum's area, around its centre, that is removed.
        reduction: see `dim`.
        as_published: take the patch embedding's numbers [h, w, C] in their order as [C, h * w], as SAM-Adapter's code
            does. Its weights are right only so; every other network wants it off.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        patch_size: int,
        *,
        rate: float = 0.25,
        reduction: int = 32,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"frequency rate {rate} is not from 0 to below 1; 0.25 is the usual one")
        width = max(1, dim // reduction)
        self.rate = rate
        self.as_published = as_published
        self.high = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.embedding = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, image: Tensor, patches: Tensor) -> Iterator[Tensor]:
        """Yield the prompt [B, h, w, C] of each block.

        Args:
            image: [B, 3, H, W], what the patches were made of.
            patches: [B, h, w, C], patch embedding, without its position.
        """
        fine = self.high(high_frequencies(image, self.rate).to(image.dtype)).permute(0, 2, 3, 1)
        if self.as_published:
            batch, rows, columns, channels = patches.shape
            patches = patches.reshape(batch, channels, rows, columns).permute(0, 2, 3, 1)
        features = fine + self.embedding(patches)
        for block in self.blocks:
            yield self.up(F.gelu(block(features)))


def high_frequencies(image: Tensor, rate: float) -> Tensor:
    """Return what is left of an image [..., H, W] without a central share `rate` of its spectrum's area; not below 0.

    The part removed is a rectangle of the image's proportions around the zero frequency.
    """
    rows, columns = image.shape[-2:]
    half = int((rows * columns * rate) ** 0.5 // 2)
    spectrum = torch.fft.fftshift(torch.fft.fft2(image.float()), dim=(-2, -1))
    keep = torch.ones(rows, columns, device=image.device)
    row, column = rows // 2, columns // 2
    keep[row - half : row + half, column - half : column + half] = 0
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum * keep, dim=(-2, -1))).real.abs()
