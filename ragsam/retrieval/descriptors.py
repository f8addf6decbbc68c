"""Descriptors: the unit vector by which a slice is found. Each is a pure function, named in the bank's manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

THUMBNAIL_SIDE = 16
EMBEDDING_SIDE = 4
#: What the height counts beside the content; less where the content says by itself where along the body a slice lies.
HEIGHT_WEIGHT, CENTRED_HEIGHT_WEIGHT = 0.7, 0.5


@dataclass(frozen=True)
class Descriptor:
    """A way to describe slices.

    Attributes:
        describe: (image [B, C, H, W], embedding [B, C, h, w] or None, height [B]) -> [B, D], unit length.
        needs_embedding: whether it looks at the encoder's embedding; a bank then belongs to that encoder alone.
    """

    describe: Callable[[Tensor, Tensor | None, Tensor], Tensor]
    needs_embedding: bool


def _with_height(content: Tensor, height: Tensor, weight: float = HEIGHT_WEIGHT) -> Tensor:
    """Join unit content [B, D] and the height on an arc: equal heights add to the cosine, far ones take away."""
    angle = pi * height.to(content.dtype)[:, None]
    arc = weight * torch.cat([angle.cos(), angle.sin()], dim=1)
    return F.normalize(torch.cat([content, arc], dim=1))


def _thumbnail(image: Tensor, embedding: Tensor | None, height: Tensor) -> Tensor:
    middle = image.shape[1] // 2
    small = F.adaptive_avg_pool2d(image[:, middle : middle + 1], THUMBNAIL_SIDE).flatten(1)
    return _with_height(F.normalize(small - small.mean(1, keepdim=True)), height)


def _centred(image: Tensor, embedding: Tensor | None, height: Tensor) -> Tensor:
    middle = centred(image[:, image.shape[1] // 2])
    small = F.adaptive_avg_pool2d(middle[:, None], THUMBNAIL_SIDE).flatten(1)
    return _with_height(F.normalize(small - small.mean(1, keepdim=True)), height, CENTRED_HEIGHT_WEIGHT)


def centred(slices: Tensor) -> Tensor:
    """Move slices [B, H, W] by whole pixels so that the centre of their brightness is in the middle."""
    for axis in (1, 2):
        side = slices.shape[axis]
        profile = slices.clamp_min(0).sum(3 - axis)
        place = torch.arange(side, device=slices.device, dtype=slices.dtype)
        centre = (profile * place).sum(1) / profile.sum(1).clamp_min(torch.finfo(slices.dtype).tiny)
        # A slice without any brightness has no centre, and stays.
        offset = torch.where(profile.sum(1) > 0, (centre - (side - 1) / 2).round(), torch.zeros_like(centre)).long()
        source = torch.arange(side, device=slices.device) + offset[:, None]
        inside = ((source >= 0) & (source < side)).unsqueeze(3 - axis)
        index = source.clamp(0, side - 1).unsqueeze(3 - axis).expand_as(slices)
        slices = slices.gather(axis, index) * inside
    return slices


def _embedding(image: Tensor, embedding: Tensor | None, height: Tensor) -> Tensor:
    if embedding is None:
        raise ValueError("descriptor embedding: no embedding was given; pass the encoder's")
    pooled = F.adaptive_avg_pool2d(embedding, EMBEDDING_SIDE).flatten(1)
    return _with_height(F.normalize(pooled - pooled.mean(1, keepdim=True)), height)


#: `thumbnail`: the middle channel at 16 x 16, mean removed; `centred`: the same, its brightness moved to the middle,
#: so that it does not matter where in the picture the body lies; `embedding`: the encoder's embedding at 4 x 4.
DESCRIPTORS = {
    "centred": Descriptor(_centred, needs_embedding=False),
    "thumbnail": Descriptor(_thumbnail, needs_embedding=False),
    "embedding": Descriptor(_embedding, needs_embedding=True),
}
