"""Networks as they are deployed: tensors in, tensors out, LoRA merged, nothing looked up.

Where a network was trained with retrieval it takes its neighbours' vote, `label_prior` of `ragsam.networks.supports`; a
vote of zeros stands for no neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ragsam.networks.detail import STEM_CHANNELS
from ragsam.networks.fusion import LabelPriorFusion
from ragsam.networks.lora import merge_lora
from ragsam.networks.segmenter import Embedded, Segmenter


class Vote(NamedTuple):
    """Neighbours' vote in the place of `Supports`: [B, K + 1, H, W]."""

    vote: Tensor


class VoteFusion(nn.Module):
    """Does what a fusion of supports does, given their vote."""

    def __init__(self, fusion: LabelPriorFusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, features: Tensor, vote: Vote) -> Tensor:
        return self.fusion.add_vote(features, vote.vote, vote.vote.amax(dim=(1, 2, 3)) > 0)


def prepare(network: Segmenter) -> Segmenter:
    """Make a network ready to be deployed, in place. It is of use to `Whole`, `Encoder` and `Decoder` alone then."""
    network.eval().requires_grad_(False)
    network.lookup = None
    merge_lora(network)
    if network.fusion is not None:
        network.fusion = VoteFusion(network.fusion)
    return network


class _Part(nn.Module):
    """A part of a network.

    Args:
        network: of `prepare`.
    """

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network
        self.eval()


class Whole(_Part):
    """From slices to classes."""

    def forward(self, image: Tensor, vote: Tensor | None = None) -> Tensor:
        """Return logits [B, K + 1, H, W] of slices [B, 3, H, W] and their vote."""
        return self.network.decode(self.network.embed(image), None if vote is None else Vote(vote))


class Encoder(_Part):
    """From slices to what can be decoded any number of times."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the embedding of slices [B, 3, H, W], and the features that `stem_names` names."""
        (image,) = inputs
        embedding, stem = self.network.embed(image)
        return embedding, *((stem or {}).values())


class Decoder(_Part):
    """From what the encoder gave to classes."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return logits [B, K + 1, H, W] of the encoder's outputs and, where the network has a fusion, a vote."""
        given = list(inputs)
        vote = Vote(given.pop()) if self.network.fusion is not None else None
        embedding, *stem = given
        features = dict(zip(STEM_CHANNELS, stem, strict=True)) if stem else None
        return self.network.decode(Embedded(embedding, features), vote)


def stem_names(network: Segmenter) -> list[str]:
    """Return the names of the detail branch's features, from the finest on; none without one."""
    return [f"stem_{stride}" for stride in STEM_CHANNELS] if network.stem is not None else []


def example_inputs(network: Segmenter, batch: int, channels: int = 3) -> tuple[Tensor, ...]:
    """Return inputs of `Whole`: random slices, and votes of which the last is that of no neighbours."""
    generator = torch.Generator().manual_seed(batch)
    size, classes = network.image_size, network.num_classes + 1
    image = torch.rand(batch, channels, size, size, generator=generator)
    if network.fusion is None:
        return (image,)
    vote = (4 * torch.randn(batch, classes, size, size, generator=generator)).softmax(1)
    vote[-1] = 0
    return image, vote
