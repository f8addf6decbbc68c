"""The fusions of a network, by name: together they start at exactly zero effect."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ragsam.errors import InputError
from ragsam.networks.label_prior import LabelPriorFusion
from ragsam.networks.supports import Supports
from ragsam.networks.vote_product import VoteProduct

#: Names of fusions. They are combined by a plus sign.
FUSIONS = ("vote_product", "label_prior")
#: What networks of earlier versions may have been trained with.
REMOVED = ("logit_prior", "dense_prior", "prototypes", "memory")


class Fusions(nn.Module):
    """Lets supports steer the decoder.

    Args:
        names: of `FUSIONS`. `vote_product` multiplies the probabilities by the vote, once the network is trained;
            `label_prior` brings the vote to full resolution and to the logits.
        num_classes: with background (K + 1).
        channels: of the features at full resolution.
    """

    def __init__(self, names: Sequence[str], *, num_classes: int, channels: int) -> None:
        super().__init__()
        self.vote_product: VoteProduct | None = None
        self.label_prior: LabelPriorFusion | None = None
        if "vote_product" in names:
            self.vote_product = VoteProduct(num_classes)
        if "label_prior" in names:
            self.label_prior = LabelPriorFusion(num_classes, channels)

    @property
    def learns(self) -> bool:
        """Whether there is anything to be learnt with supports."""
        return self.label_prior is not None

    def steer(self, features: Tensor, supports: Supports) -> tuple[Tensor, Tensor | None]:
        """Steer features [B, C, H, W] before the last block; return them, or others, and what is added to logits."""
        if self.label_prior is None:
            return features, None
        return self.label_prior(features, supports)


def fusion_names(fusion: str | None) -> tuple[str, ...]:
    """Return the names in a text such as `vote_product+label_prior`; none for None.

    Raises:
        ValueError: an unknown name, or the same twice.
        InputError: a fusion that was removed.
    """
    if fusion is None:
        return ()
    names = tuple(fusion.split("+"))
    for name in names:
        if name in REMOVED:
            raise InputError(f"fusion {name!r} was removed, since it came out behind; train with {FUSIONS[0]}")
        if name not in FUSIONS or names.count(name) > 1:
            known = ", ".join(FUSIONS)
            raise ValueError(f"fusion {name!r} is unknown or named twice; choose of {known}, joined by +, or null")
    return names
