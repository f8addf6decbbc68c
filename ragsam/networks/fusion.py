"""Fusion of supports: how the neighbours' labels enter the decoder. Every fusion starts at exactly zero effect."""

from __future__ import annotations

from torch import Tensor, nn

from ragsam.networks.supports import Supports, label_prior, resize_prior


class LabelPriorFusion(nn.Module):
    """Two convolutions that turn the neighbours' label vote into features, the last one zero-initialised.

    Args:
        num_classes: classes with background (K + 1).
        channels: channels of the decoder's features that the result is added to.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.convs = nn.Sequential(
            nn.Conv2d(num_classes, channels, 3, padding=1), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        nn.init.zeros_(self.convs[-1].weight)
        nn.init.zeros_(self.convs[-1].bias)

    def forward(self, features: Tensor, supports: Supports) -> Tensor:
        """Add the prior to `features` [B, C, h, w]; a query whose weights are all zero is left untouched."""
        return self.add_vote(features, label_prior(supports, self.num_classes), supports.weights.sum(1) > 0)

    def add_vote(self, features: Tensor, vote: Tensor, found: Tensor) -> Tensor:
        """Add the prior of a vote [B, num_classes, H, W] to the features of those queries that `found` [B] names."""
        prior = resize_prior(vote.to(features.dtype), features.shape[-2:])
        return features + found.to(features.dtype)[:, None, None, None] * self.convs(prior)
