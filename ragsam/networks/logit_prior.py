"""The label prior straight to the logits, as far as a slice's features trust it; at exactly zero effect at first."""

from __future__ import annotations

from torch import Tensor, nn

from ragsam.networks.label_prior import LOGIT_RATE, vote_to_logits
from ragsam.networks.supports import Supports, label_prior, resize_prior, votes_found


class LogitPriorFusion(nn.Module):
    """Adds the neighbours' vote to the logits: a convolution of it, zero-initialised, times a trust in every pixel.

    The trust in what is added to a class is of the decoder's features there, from 0 to 2, and 1 at first. The features
    stay as they are, so that decoding with supports and without differs by this sum alone, and a step of training costs
    hardly more than one without retrieval.

    Args:
        num_classes: classes with background (K + 1).
        channels: of the decoder's features.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.to_logits = vote_to_logits(num_classes)
        self.trust = nn.Conv2d(channels, num_classes, 1)
        nn.init.zeros_(self.trust.weight)
        nn.init.zeros_(self.trust.bias)

    def forward(self, features: Tensor, supports: Supports) -> Tensor:
        """Return what is added to logits [B, K + 1, h, w] of features [B, C, h, w]; zeros where no neighbour votes."""
        prior = resize_prior(label_prior(supports, self.num_classes).to(features.dtype), features.shape[-2:])
        return votes_found(supports, features) * 2 * self.trust(features).sigmoid() * LOGIT_RATE * self.to_logits(prior)
