"""Families of image encoders behind one interface: SAM's ViT, TinyViT, and Hiera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

#: What the keys of a state dict contain by which its family is known, and what the family is called.
_MARKS = {
    "vit": ("image_encoder.blocks.", "a ViT, as SAM has"),
    "tiny_vit": ("image_encoder.patch_embed.seq.", "a TinyViT, as LiteMedSAM and MobileSAM have"),
    "hiera": ("image_encoder.trunk.", "a Hiera, as SAM 2 and MedSAM2 have"),
}


class Encoder(Protocol):
    """What a network needs of its image encoder.

    Attributes:
        family: `vit`, `tiny_vit` or `hiera`.
        blocks: transformer blocks, in order. A block has its width `dim`; `attn.qkv` and `attn.proj`; `mlp` with the
            layers that `mlp_layers` names; and a place for `space_adapter` and `mlp_adapter`.
        qkv_by_head: whether the outputs of `qkv` are ordered by head, then query, key, value; else query, key, value
            of all heads.
        finer_channels: channels of `finer` by stride; empty for an encoder of one resolution.
    """

    family: str
    blocks: Sequence[nn.Module]
    qkv_by_head: bool
    finer_channels: Mapping[int, int]

    def __call__(self, x: Tensor, *, image: Tensor | None = None, stack: int = 1) -> Tensor:
        """Encode slices [B, 3, H, W]: [B, C, h, w]."""

    def features(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the embedding, and features at finer strides; for encoders that have them."""

    def finer(self, image: Tensor) -> dict[int, Tensor]:
        """Return the features at finer strides alone."""

    def checkpoint(self, what: str | None) -> None:
        """Have the backward pass work something out again, of `CHECKPOINTING`."""

    def add_frequency(self, **options: Any) -> None:
        """Add frequency prompts."""

    def init_positions(self) -> None:
        """Start tables of positions at random, for a network without base weights."""


def family_of(state: Mapping[str, Any]) -> str | None:
    """Return the family of the image encoder in a SAM's state dict; None for none that is known."""
    for family, (mark, _) in _MARKS.items():
        if any(key.startswith(mark) for key in state):
            return family
    return None


def family_name(family: str) -> str:
    """Return what a family is called in a message."""
    return _MARKS[family][1]
