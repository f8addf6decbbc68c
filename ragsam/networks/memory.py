"""Memory: the slice's tokens attend to those of its neighbours, which know their labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ragsam.networks.supports import Memory

HEADS, WIDTH = 8, 128
#: What is added to a weight before its logarithm: a neighbour without weight is as good as not there.
TINY = 1e-6


class MemoryAttention(nn.Module):
    """Lets the tokens of a slice look at those of its neighbours, once, after the neck.

    A neighbour's token brings its embedding and the shares of the classes in its patch; a neighbour of greater weight
    is looked at more. The last layer is zero-initialised.

    Args:
        num_classes: with background (K + 1).
        dim: channels of the embedding.

    Source: the memory attention of Ravi et al., "SAM 2", arXiv:2408.00714, with neighbours for frames.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, WIDTH)
        self.key = nn.Linear(dim, WIDTH)
        self.value = nn.Linear(dim + num_classes, WIDTH)
        self.out = nn.Linear(WIDTH, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, embedding: Tensor, position: Tensor, neighbours: Memory) -> Tensor:
        """Return what is added to an embedding [B, C, h, w]; zeros where all weights are zero.

        Args:
            position: [1 or B, C, h, w], SAM's of each token; the neighbours' are at the same places.
            neighbours: of the same grid.
        """
        rows, columns = embedding.shape[-2:]
        place = position.flatten(2).transpose(1, 2)
        tokens = self.norm(embedding.flatten(2).transpose(1, 2))
        memory = self.norm(neighbours.embeddings.to(embedding.dtype).flatten(3).transpose(2, 3))  # [B, k, h w, C]
        query, key = self.query(tokens + place), self.key(memory + place[:, None])
        value = self.value(torch.cat([memory, _shares(neighbours.labels, self.num_classes, rows, columns)], dim=-1))
        weights = neighbours.weights.to(embedding.dtype)
        trust = (weights + TINY).log()[:, None, None, :, None]
        trust = trust.expand(-1, 1, 1, -1, rows * columns).flatten(3)
        query, key, value = (_in_heads(x) for x in (query, key.flatten(1, 2), value.flatten(1, 2)))
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=trust.to(query.dtype))
        added = self.out(seen.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (rows, columns))
        return added * (weights.sum(1) > 0)[:, None, None, None]


def _in_heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


def _shares(labels: Tensor, num_classes: int, rows: int, columns: int) -> Tensor:
    """Return the shares of the classes in the patches of labels [B, k, H, W]: [B, k, h w, num_classes]."""
    shares = [
        F.adaptive_avg_pool2d((labels == value).to(torch.get_default_dtype()), (rows, columns))
        for value in range(num_classes)
    ]
    return torch.stack(shares, dim=-1).flatten(2, 3)
