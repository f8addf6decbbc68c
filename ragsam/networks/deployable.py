"""Networks as they are deployed: tensors in, tensors out, LoRA merged, nothing looked up.

Where a network was trained with retrieval it takes its neighbours' vote, `label_prior` of `ragsam.networks.supports`; a
vote of zeros stands for no neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ragsam.networks.lora import merge_lora
from ragsam.networks.prompts import INSIDE, OUTSIDE, PADDING
from ragsam.networks.segmenter import Embedded, Segmenter
from ragsam.networks.supports import Supports

#: Kinds of points beside those of `ragsam.networks.prompts`: a box is two points.
TOP_LEFT, BOTTOM_RIGHT = 2, 3


def prepare(network: Segmenter) -> Segmenter:
    """Make a network ready to be deployed, in place; it is of use to the parts below alone then."""
    network.eval().requires_grad_(False)
    merge_lora(network)
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
        embedded = self.network.embed(image)
        if vote is None:
            return self.network.decode(embedded)
        return self.network.decode(embedded, _supports(vote))


class Encoder(_Part):
    """From slices to what can be decoded any number of times."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the embedding of slices [B, 3, H, W], and the features that `stem_names` names."""
        (image,) = inputs
        embedding, stem = self.network.embed(image)
        return embedding, *stem.values()


class Decoder(_Part):
    """From what the encoder gave to classes."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return logits [B, K + 1, H, W] of the encoder's outputs and, where the network has a fusion, a vote."""
        if self.network.fusion is None:
            return self.network.decode(_embedded(inputs, self.network.feature_names))
        *encoded, vote = inputs
        return self.network.decode(_embedded(encoded, self.network.feature_names), _supports(vote))


class PromptedDecoder(_Part):
    """From what the encoder gave to prompted objects, for a network that answers prompts."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the parts of `PromptedMasks`.

        Args:
            inputs: the encoder's outputs, of N slices, one an object; row, column and kind [N, P] of points, in pixels,
                see `PointPrompts`, after which a box is a `TOP_LEFT` and a `BOTTOM_RIGHT`, and no box one `PADDING`;
                mask [N, 1, 4 h, 4 w], logits; has_mask [N], float, 0 if absent.
        """
        *encoded, row, column, kind, mask, has_mask = inputs
        encoder = self.network.sam.prompt_encoder
        places = torch.stack([column, row], dim=-1) + 0.5
        places = encoder.pe_layer.forward_with_coords(places, encoder.input_image_size)
        kinds = torch.cat([embedding.weight for embedding in encoder.point_embeddings])
        points = places + kinds[kind.clamp_min(0)]
        sparse = torch.where((kind == PADDING)[..., None], encoder.not_a_point_embed.weight, points)
        masks = encoder.mask_downscaling(mask)
        no_mask = encoder.no_mask_embed.weight[..., None, None].expand_as(masks)
        dense = torch.where(has_mask[:, None, None, None] > 0, masks, no_mask)
        embedded = _embedded(encoded, self.network.feature_names)
        return tuple(self.network.decode_embedded_prompts(embedded, sparse, dense))


def _supports(vote: Tensor) -> Supports:
    return Supports.of_vote(vote, vote.amax(dim=(1, 2, 3)) > 0)


def _embedded(tensors: Sequence[Tensor], names: Sequence[int | str]) -> Embedded:
    embedding, *stem = tensors
    return Embedded(embedding, dict(zip(names, stem, strict=True)))


def stem_names(network: Segmenter) -> list[str]:
    """Return the names of the finer features that the decoder takes; none where it takes none."""
    return [f"stem_{name}" for name in network.feature_names]


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


def example_prompts(network: Segmenter, batch: int) -> dict[str, Tensor]:
    """Return inputs of `PromptedDecoder` beside the encoder's, by name: points and a box, the last one without mask."""
    generator = torch.Generator().manual_seed(batch)
    side = 4 * network.image_size // network.patch_size
    places = (torch.rand(2, batch, 4, generator=generator) * network.image_size).round()
    kind = torch.tensor([[INSIDE, OUTSIDE, TOP_LEFT, BOTTOM_RIGHT], [INSIDE, PADDING, PADDING, PADDING]])
    has_mask = torch.ones(batch)
    has_mask[-1] = 0
    return {
        "row": places[0],
        "column": places[1],
        "kind": kind[torch.arange(batch) % 2],
        "mask": 4 * torch.randn(batch, 1, side, side, generator=generator),
        "has_mask": has_mask,
    }
