"""Networks as they are deployed: tensors in, tensors out, LoRA merged, nothing looked up.

Where a network was trained with retrieval it takes its neighbours' vote, `label_prior` of `ragsam.networks.supports`; a
vote of zeros stands for no neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor, nn

from ragsam.networks.detail import STEM_CHANNELS
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
        return self.network.decode(self.network.embed(image), _supports(vote))


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
        vote = given.pop() if self.network.fusion is not None else None
        return self.network.decode(_embedded(given), _supports(vote))


class PromptedDecoder(_Part):
    """From what the encoder gave to prompted objects, for a network that answers prompts."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the parts of `PromptedMasks`.

        Args:
            inputs: the encoder's outputs, of N slices, one an object; row, column and kind [N, P] of points, in pixels,
                see `PointPrompts`, after which a box is a `TOP_LEFT` and a `BOTTOM_RIGHT`, and no box one `PADDING`;
                mask [N, 1, 4 h, 4 w], logits; has_mask [N], float, 0 where there is none.
        """
        *encoded, row, column, kind, mask, has_mask = inputs
        encoder = self.network.sam.prompt_encoder
        sparse, dense = _embed_points(encoder, row, column, kind), _embed_masks(encoder, mask, has_mask)
        return tuple(self.network.decode_embedded_prompts(_embedded(encoded), sparse, dense))


def _supports(vote: Tensor | None) -> Supports | None:
    return None if vote is None else Supports.of_vote(vote, vote.amax(dim=(1, 2, 3)) > 0)


def _embed_points(encoder: PromptEncoder, row: Tensor, column: Tensor, kind: Tensor) -> Tensor:
    """Return SAM's embeddings [N, P, C] of points [N, P], those of boxes among them."""
    place = encoder.pe_layer.forward_with_coords(torch.stack([column, row], dim=-1) + 0.5, encoder.input_image_size)
    kinds = torch.cat([embedding.weight for embedding in encoder.point_embeddings])
    known = place + kinds[kind.clamp_min(0)]
    return torch.where((kind == PADDING)[..., None], encoder.not_a_point_embed.weight, known)


def _embed_masks(encoder: PromptEncoder, mask: Tensor, has_mask: Tensor) -> Tensor:
    """Return SAM's embeddings [N, C, h, w] of masks [N, 1, 4 h, 4 w], of which some are not there."""
    dense = encoder.mask_downscaling(mask)
    none = encoder.no_mask_embed.weight[..., None, None].expand_as(dense)
    return torch.where(has_mask[:, None, None, None] > 0, dense, none)


def _embedded(tensors: Sequence[Tensor]) -> Embedded:
    embedding, *stem = tensors
    return Embedded(embedding, dict(zip(STEM_CHANNELS, stem, strict=True)) if stem else None)


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
