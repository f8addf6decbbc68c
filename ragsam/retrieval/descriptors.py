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
HEIGHT_WEIGHT = 0.7


@dataclass(frozen=True)
class Descriptor:
    """A way to describe slices.

    Attributes:
        describe: (image [B, C, H, W], embedding [B, C, h, w] or None, height [B]) -> [B, D], unit length.
        needs_embedding: whether it looks at the encoder's embedding; a bank then belongs to that encoder alone.
    """

    describe: Callable[[Tensor, Tensor | None, Tensor], Tensor]
    needs_embedding: bool


def _with_height(content: Tensor, height: Tensor) -> Tensor:
    """Join unit content [B, D] and the height on an arc: equal heights add to the cosine, far ones take away."""
    angle = pi * height.to(content.dtype)[:, None]
    arc = HEIGHT_WEIGHT * torch.cat([angle.cos(), angle.sin()], dim=1)
    return F.normalize(torch.cat([content, arc], dim=1))


def _thumbnail(image: Tensor, embedding: Tensor | None, height: Tensor) -> Tensor:
    middle = image.shape[1] // 2
    small = F.adaptive_avg_pool2d(image[:, middle : middle + 1], THUMBNAIL_SIDE).flatten(1)
    return _with_height(F.normalize(small - small.mean(1, keepdim=True)), height)


def _embedding(image: Tensor, embedding: Tensor | None, height: Tensor) -> Tensor:
    if embedding is None:
        raise ValueError("descriptor embedding: no embedding was given; pass the encoder's")
    pooled = F.adaptive_avg_pool2d(embedding, EMBEDDING_SIDE).flatten(1)
    return _with_height(F.normalize(pooled - pooled.mean(1, keepdim=True)), height)


#: `thumbnail`: the middle channel at 16 x 16, mean removed; `embedding`: the encoder's embedding at 4 x 4.
DESCRIPTORS = {
    "thumbnail": Descriptor(_thumbnail, needs_embedding=False),
    "embedding": Descriptor(_embedding, needs_embedding=True),
}
