"""Fusion of supports: how the neighbours' labels enter the decoder. Every fusion starts at exactly zero effect."""

from __future__ import annotations

from torch import Tensor, nn

from ragsam.networks.supports import Supports, label_prior, resize_prior

#: How much faster the way to the logits learns than other layers: a good vote is worth much from the start.
LOGIT_RATE = 10.0


class LabelPriorFusion(nn.Module):
    """Brings the neighbours' vote in twice: two convolutions turn it into features, one into logits.

    The last convolution of each way is zero-initialised. A vote that is good by itself needs no features to be
    learnt: it goes straight to the logits, and leaves the features to what the picture shows.

    Args:
        num_classes: classes with background (K + 1).
        channels: channels of the decoder's features that the first result is added to.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.convs = nn.Sequential(
            nn.Conv2d(num_classes, channels, 3, padding=1), nn.GELU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.to_logits = nn.Conv2d(num_classes, num_classes, 3, padding=1)
        for layer in (self.convs[-1], self.to_logits):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, supports: Supports) -> tuple[Tensor, Tensor]:
        """Return features [B, C, h, w] with the prior added, and what it adds to logits [B, K + 1, h, w].

        A query whose weights are all zero is left untouched.
        """
        return self.add_vote(features, label_prior(supports, self.num_classes), supports.weights.sum(1) > 0)

    def add_vote(self, features: Tensor, vote: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """Do so with a vote [B, K + 1, H, W], for those queries that `found` [B] names."""
        prior = resize_prior(vote.to(features.dtype), features.shape[-2:])
        found = found.to(features.dtype)[:, None, None, None]
        return features + found * self.convs(prior), found * LOGIT_RATE * self.to_logits(prior)
