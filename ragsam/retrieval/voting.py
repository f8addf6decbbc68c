"""The vote as a network: what the neighbours' labels say of a slice, and nothing learnt."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ragsam.networks.supports import Supports, label_prior, resize_prior, vote_shares


class VotingNetwork(nn.Module):
    """Segments by the vote of its supports alone. It has no weights, and stands where a `Segmenter` would.

    Args:
        num_classes: organs, without background (K).
        image_size: side of the square input slice, pixels.

    Attributes:
        about: what is reported of it beside label volumes.
    """

    def __init__(self, num_classes: int, *, image_size: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.about: dict[str, Any] = {"backbone": None, "image_size": image_size, "num_classes": num_classes}

    def forward(self, image: Tensor, supports: Supports | None = None) -> Tensor:
        """Return logits of all classes, whose softmax is the classes' shares in the vote.

        Args:
            image: [B, C, H, W], float, 0-1.
            supports: neighbours of each slice; with None nobody votes.

        Returns:
            [B, K + 1, H, W], float; channel 0 is background, which all of it is where nobody votes.
        """
        if supports is None:
            shares = vote_shares(image.new_zeros(len(image), self.num_classes + 1, 1, 1))
        else:
            shares = vote_shares(label_prior(supports, self.num_classes + 1).to(image), supports.boost)
        return resize_prior(shares, tuple(image.shape[-2:])).log()
