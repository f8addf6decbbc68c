"""Supports: the labelled slices of other patients that steer the segmentation of a query slice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: The share of a class for which nobody votes: its logarithm is finite.
TINY = 1e-6


@dataclass
class Supports:
    """The neighbours of a batch of query slices.

    Attributes:
        labels: [B, k, H, W], uint8, class of each pixel, 0 is background; not looked at where there is a vote.
        weights: [B, k], float, trust in each neighbour, summing to 1 a query; all zero means that the query has no
            supports, and then the network's output is exactly that without retrieval.
        annotated: [B, k, K + 1], bool, the classes that each neighbour annotates; None if all annotate all.
        vote: [B, K + 1 or fewer, H, W], 0-1, what the neighbours say once their labels are transferred to the query,
            the fainter the less they look like it there, see `ragsam.retrieval.label_transfer`; classes that it leaves
            out get nothing. None: the labels vote pixel on pixel.
        patients: how many there are in the bank that was searched; None: not known.
        trust: [K + 1 or fewer], float, 0-1, how far the vote on each class can be trusted, see
            `ragsam.retrieval.agreement`; None: not known.
        boost: how many times over a vote for an organ counts beside one for the background, see there.
        neighbours: [B], int, how many vote; None: not known.
    """

    labels: Tensor
    weights: Tensor
    annotated: Tensor | None = None
    vote: Tensor | None = None
    patients: int | None = None
    trust: Tensor | None = None
    boost: float = 1.0
    neighbours: Tensor | None = None

    @classmethod
    def of_vote(cls, vote: Tensor, found: Tensor) -> Supports:
        """Return supports of a vote [B, K + 1, H, W] for those queries that `found` [B] names."""
        return cls(torch.zeros(vote.shape[0], 1, 1, 1, dtype=torch.uint8), found.float()[:, None], vote=vote)

    def each(self) -> Iterator[Supports]:
        """Yield the supports of one query after the other."""
        for index in range(len(self.weights)):
            parts: dict[str, Any] = {}
            for name in ("labels", "weights", "annotated", "vote", "neighbours"):
                tensor = getattr(self, name)
                if tensor is not None:
                    parts[name] = tensor[index : index + 1]
            yield replace(self, **parts)

    def to(self, device: object) -> Supports:
        """Move the tensors to a device."""
        return replace(self, **{name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)})


def label_prior(supports: Supports, num_classes: int) -> Tensor:
    """Return the neighbours' weighted vote: [B, num_classes, H, W], 0-1, summing to the sum of the weights or less.

    Of a class only those neighbours are asked that annotate it, their weights scaled up to the sum of all; background
    gets what the organs leave. A class that no neighbour annotates gets no vote. A vote of transferred
    labels is taken as it is, times the sum of the weights.
    """
    if supports.vote is not None:
        vote = supports.vote * supports.weights.sum(1)[:, None, None, None]
        return F.pad(vote, (0, 0, 0, 0, 0, num_classes - vote.shape[1]))
    return weighted_vote(supports.labels, supports.weights[:, :, None, None], num_classes, supports.annotated)


def votes_found(supports: Supports, like: Tensor) -> Tensor:
    """Return 1 for each query that any neighbour votes for, else 0: [B, 1, 1, 1], of the type of `like`."""
    return (supports.weights.sum(1) > 0).to(like.dtype)[:, None, None, None]


def weighted_vote(labels: Tensor, weights: Tensor, num_classes: int, annotated: Tensor | None = None) -> Tensor:
    """Return the vote [B, num_classes, H, W] of labels [B, k, H, W], summing to the sum of the weights.

    Args:
        weights: [B, k, H, W], or [B, k, 1, 1] for the same everywhere.
        annotated: [B, k, num_classes], see `label_prior`; None: every neighbour annotates all.
    """
    # One-hot of each neighbour would be k times as large as the vote: sum neighbour by neighbour.
    batch, count, height, width = labels.shape
    vote = weights.new_zeros(batch, num_classes, height, width)
    for index in range(count):
        chosen = labels[:, index : index + 1].long()
        vote.scatter_add_(1, chosen, weights[:, index : index + 1].expand_as(chosen))
    if annotated is None:
        return vote
    total = weights.sum(1, keepdim=True)
    tiny = torch.finfo(vote.dtype).tiny
    asked = torch.einsum("bkhw,bkc->bchw", weights, annotated.to(weights.dtype))
    organs = vote[:, 1:] * total / asked[:, 1:].clamp_min(tiny)
    organs = organs * (total / organs.sum(1, keepdim=True).clamp_min(tiny)).clamp_max(1)
    return torch.cat([total - organs.sum(1, keepdim=True), organs], dim=1)


def vote_shares(vote: Tensor, boost: float = 1.0) -> Tensor:
    """Return the share of every class in a vote [B, K + 1, H, W], however faint: above 0, summing to 1 at a pixel.

    Args:
        boost: how many times over a vote for an organ counts.
    """
    vote = torch.cat([vote[:, :1] + TINY, vote[:, 1:] * boost], dim=1)  # where nobody votes: background
    shares = vote / vote.sum(1, keepdim=True) + TINY
    return shares / shares.sum(1, keepdim=True)


def resize_prior(prior: Tensor, size: tuple[int, int]) -> Tensor:
    """Average a prior [B, C, H, W] down (or bilinearly up) to `size`."""
    if prior.shape[-2:] == size:
        return prior
    if size[0] < prior.shape[-2]:
        return F.adaptive_avg_pool2d(prior, size)
    return F.interpolate(prior, size, mode="bilinear", align_corners=False)
