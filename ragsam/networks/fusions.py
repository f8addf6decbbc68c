"""The fusions that a network has, by name: where each enters, and that together they start at exactly zero effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ragsam.networks.label_prior import LabelPriorFusion
from ragsam.networks.logit_prior import LogitPriorFusion
from ragsam.networks.memory import MemoryAttention
from ragsam.networks.prototypes import PrototypeTokens
from ragsam.networks.supports import Supports, label_prior, resize_prior, votes_found
from ragsam.networks.vote_product import VoteProduct

#: Names of fusions. They are combined by a plus sign.
FUSIONS = ("vote_product", "label_prior", "logit_prior", "dense_prior", "prototypes", "memory")


class Steered(NamedTuple):
    """What the decoder's transformer takes of slices with supports.

    Attributes:
        embedding: [B, C, h, w].
        tokens: [B, K + 1, C], of the classes.
        bias: of the classes' attention to the image, [attentions, B, heads, K + 1, h w], or None.
    """

    embedding: Tensor
    tokens: Tensor
    bias: Tensor | None


class Fusions(nn.Module):
    """Lets supports steer the decoder.

    Args:
        names: of `FUSIONS`. `vote_product` multiplies the probabilities by the vote, once the network is trained;
            `label_prior` brings the vote to full resolution and to the logits, `logit_prior` to the logits alone,
            `dense_prior` to the embedding, as a dense prompt; for the others see `VoteProduct`, `LogitPriorFusion`,
            `PrototypeTokens` and `MemoryAttention`.
        transformer: of the mask decoder.
        num_classes: with background (K + 1).
        channels: of the features at full resolution.
    """

    def __init__(self, names: Sequence[str], transformer: nn.Module, *, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_classes, dim = num_classes, transformer.embedding_dim
        self.vote_product = VoteProduct(num_classes) if "vote_product" in names else None
        self.label_prior = LabelPriorFusion(num_classes, channels) if "label_prior" in names else None
        self.logit_prior = LogitPriorFusion(num_classes, channels) if "logit_prior" in names else None
        self.dense_prior = nn.Conv2d(num_classes, dim, 1) if "dense_prior" in names else None
        self.prototypes = PrototypeTokens(transformer) if "prototypes" in names else None
        self.memory = MemoryAttention(num_classes, dim) if "memory" in names else None
        if self.dense_prior is not None:
            nn.init.zeros_(self.dense_prior.weight)
            nn.init.zeros_(self.dense_prior.bias)

    @property
    def learns(self) -> bool:
        """Whether there is anything to be learnt with supports."""
        return any(True for _ in self.parameters())

    @property
    def early(self) -> bool:
        """Whether the supports enter before the decoder's transformer."""
        return not (self.dense_prior is self.prototypes is self.memory is None)

    def before(self, embedding: Tensor, position: Tensor, tokens: Tensor, supports: Supports) -> Steered:
        """Steer what the transformer takes: an embedding [B, C, h, w], and the classes' tokens [B, K + 1, C].

        A query whose weights are all zero is left untouched.

        Args:
            position: [1 or B, C, h, w], of the embedding.
        """
        found = votes_found(supports, embedding)
        vote = label_prior(supports, self.num_classes).to(embedding.dtype)
        vote = resize_prior(vote, tuple(embedding.shape[-2:])) * found
        steered, bias = embedding, None
        if self.dense_prior is not None:
            steered = steered + found * self.dense_prior(vote)
        if self.memory is not None and supports.memory is not None:
            steered = steered + found * self.memory(embedding, position, supports.memory)
        if self.prototypes is not None:
            added, bias = self.prototypes(embedding, vote)
            tokens = tokens + added
        return Steered(steered, tokens, bias)

    def after(self, features: Tensor, supports: Supports) -> tuple[Tensor, Tensor | None]:
        """Steer features [B, C, H, W] before the last block; return them, or others, and what is added to logits."""
        steered, added = (features, None) if self.label_prior is None else self.label_prior(features, supports)
        if self.logit_prior is None:
            return steered, added
        more = self.logit_prior(features, supports)
        return steered, more if added is None else added + more


def fusion_names(fusion: str | None) -> tuple[str, ...]:
    """Return the names in a text such as `label_prior+prototypes`; none for None.

    Raises:
        ValueError: another name, or the same twice.
    """
    names = tuple(fusion.split("+")) if fusion is not None else ()
    if wrong := [name for name in names if name not in FUSIONS] or [n for n in names if names.count(n) > 1]:
        known = ", ".join(FUSIONS)
        raise ValueError(f"fusion {wrong[0]!r} is unknown or named twice; choose of {known}, joined by +, or null")
    return names
