"""The vote as a network: what the neighbours' labels say of a slice, and nothing learnt."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ragsam.networks.supports import SupportLookup, Supports, label_prior, resize_prior, vote_shares


class VotingNetwork(nn.Module):
    """Segments by the vote of its supports alone. It has no weights, and stands where a `Segmenter` would.

    Args:
        num_classes: organs, without background (K).
        image_size: side of the square input slice, pixels.

    Attributes:
        about: what is told of it beside label volumes.
        lookup: where it gets its supports when none are passed.
    """

    def __init__(self, num_classes: int, *, image_size: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.about: dict[str, Any] = {"backbone": None, "image_size": image_size, "num_classes": num_classes}
        self.lookup: SupportLookup | None = None

    def forward(self, image: Tensor, height: Tensor | None = None, supports: Supports | None = None) -> Tensor:
        """Return logits of all classes, whose softmax is the classes' shares in the vote.

        Args:
            image: [B, C, H, W], float, 0-1.
            height: [B], float, 0-1, the slice's position along the body; looked at by the lookup alone.
            supports: neighbours of each slice; None asks the lookup.

        Returns:
            [B, K + 1, H, W], float; channel 0 is background, which all of it is where nobody votes.
        """
        if supports is None and self.lookup is not None:
            height = image.new_zeros(len(image)) if height is None else height
            supports = self.lookup(image, None, height)  # no descriptor that it may have looks at an embedding
        if supports is None:
            vote = image.new_zeros(len(image), self.num_classes + 1, 1, 1)
        else:
            vote = label_prior(supports, self.num_classes + 1).to(image)
        shares = vote_shares(vote, 1.0 if supports is None else supports.boost)
        return resize_prior(shares, tuple(image.shape[-2:])).log()
