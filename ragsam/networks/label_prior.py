"""The label prior: how the neighbours' vote enters the decoder at full resolution, at exactly zero effect at first."""

from __future__ import annotations

from torch import Tensor, nn

from ragsam.networks.supports import Supports, label_prior, resize_prior, votes_found

#: How much faster the way to the logits learns than other layers: a good vote is worth much from the start.
LOGIT_RATE = 10.0
#: Up to so many classes the vote for each reaches the logits of all. Beyond, it reaches its own class's alone: the cost
#: would grow with their square, and at 105 take a fifth of a ViT-B's arithmetic.
ALL_TO_ALL = 32


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
            nn.Conv2d(num_classes, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        groups = 1 if num_classes <= ALL_TO_ALL else num_classes
        self.to_logits = nn.Conv2d(num_classes, num_classes, 3, padding=1, groups=groups)
        for last in (self.to_logits, self.convs[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, supports: Supports) -> tuple[Tensor, Tensor]:
        """Return features [B, C, h, w] with the prior added, and what it adds to logits [B, K + 1, h, w].

        A query whose weights are all zero is left untouched.
        """
        prior = resize_prior(label_prior(supports, self.num_classes).to(features.dtype), features.shape[-2:])
        found = votes_found(supports, features)
        return features + found * self.convs(prior), found * LOGIT_RATE * self.to_logits(prior)
