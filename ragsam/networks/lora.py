"""Low-rank adaptation (LoRA) of linear layers, in the encoder and in the mask decoder's attention.

Source: Hu et al., arXiv:2106.09685; Zhang and Liu, "Customized Segment Anything Model" (SAMed), arXiv:2304.13785.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: What an update can be put on in an encoder's block: parts of the fused qkv, its projection, both layers of the MLP.
TARGETS = ("q", "k", "v", "proj", "mlp")
WHOLE = "whole"


class LowRank(nn.Module):
    """An update B A of rank `rank`, from `inputs` to `outputs` channels; B starts at zero, so that it is nothing."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Linear(inputs, rank, bias=False)
        self.b = nn.Linear(rank, outputs, bias=False)
        nn.init.kaiming_uniform_(self.a.weight, a=math.sqrt(5))
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class LoRALinear(nn.Module):
    """A linear layer with low-rank updates of some of its outputs.

    Args:
        linear: the layer, [..., inputs] to [..., outputs].
        parts: which outputs each update belongs to.
        rank: of each update.
        num_heads: where the layer gives the parts of each head together, query, key, value of the first, then of the
            next; None if it gives the parts of all heads one after the other, as `parts` counts.
        alpha: updates are multiplied by alpha / rank; None takes rank, a scale of 1.
        dropout: of the updates' input, while training.

    Attributes:
        merged: whether the updates stand in the layer's own weight.
    """

    def __init__(
        self,
        linear: nn.Linear,
        parts: Mapping[str, slice],
        *,
        num_heads: int | None = None,
        rank: int = 4,
        alpha: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA rank {rank} is not positive; choose 1 or more, or leave LoRA out")
        if alpha is None:
            alpha = rank
        self.linear = linear
        self.parts = dict(sorted(parts.items(), key=lambda item: item[1].start))
        self.num_heads = num_heads
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.updates = nn.ModuleDict()
        for name, part in parts.items():
            self.updates[name] = LowRank(linear.in_features, part.stop - part.start, rank)
        self._plain: Tensor | None = None

    @property
    def merged(self) -> bool:
        return self._plain is not None

    @property
    def bias(self) -> Tensor:
        """The layer's own: what it gives for zeros."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [..., inputs] to [..., outputs]."""
        out = self.linear(x)
        if self.merged:
            return out
        dropped = self.dropout(x)
        zero = out.new_zeros(1)
        pieces = []
        end = 0
        for name, part in self.parts.items():
            if part.start > end:
                pieces.append(zero.expand(*out.shape[:-1], part.start - end))
            pieces.append(self.updates[name](dropped))
            end = part.stop
        if out.shape[-1] > end:
            pieces.append(zero.expand(*out.shape[:-1], out.shape[-1] - end))
        # One sum: writing into parts of the output would have the gradient copied for each.
        update = pieces[0]
        if len(pieces) > 1:
            update = torch.cat(pieces, dim=-1)
        return out.add(self._ordered(update), alpha=self.scale)

    def _ordered(self, update: Tensor) -> Tensor:
        """Return an update [..., outputs] of query, key and value in the order of the layer's outputs."""
        if self.num_heads is None:
            return update
        return update.unflatten(-1, (3, self.num_heads, -1)).transpose(-3, -2).flatten(-3)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the updates to the layer's weight, so that they cost nothing."""
        if self.merged:
            return
        weight = self.linear.weight
        self._plain = weight.detach().clone()
        whole = torch.zeros_like(weight)
        for name, part in self.parts.items():
            update = self.updates[name]
            whole[part] = update.b.weight @ update.a.weight
        weight += self.scale * self._ordered(whole.t()).t()

    @torch.no_grad()
    def unmerge(self) -> None:
        """Give the layer its own weight back, to the bit."""
        if self._plain is not None:
            self.linear.weight.copy_(self._plain)
            self._plain = None


def add_lora(
    encoder: nn.Module,
    *,
    targets: Sequence[str] = ("q", "v"),
    blocks: Iterable[int] | None = None,
    **options: Any,
) -> None:
    """Put updates on an image encoder's blocks, in place.

    Args:
        encoder: see `ragsam.networks.encoders.Encoder`.
        targets: of `TARGETS`; SAMed's are query and value.
        blocks: which blocks, counted from 0; None takes all.
        options: of `LoRALinear`.

    Raises:
        ValueError: an unknown target, none at all, or a block that is not there.
    """
    if not targets or set(targets) - set(TARGETS):
        raise ValueError(f"LoRA targets {list(targets)}: choose some of {', '.join(TARGETS)}")
    count = len(encoder.blocks)
    if blocks is None:
        blocks = range(count)
    for index in blocks:
        if index not in range(count):
            raise ValueError(f"LoRA block {index}: the encoder has blocks 0 to {count - 1}")
        block = encoder.blocks[index]
        width = block.attn.qkv.out_features // 3
        thirds = {"q": slice(0, width), "k": slice(width, 2 * width), "v": slice(2 * width, 3 * width)}
        fused = {name: part for name, part in thirds.items() if name in targets}
        if fused:
            num_heads = block.attn.num_heads if encoder.qkv_by_head else None
            block.attn.qkv = LoRALinear(block.attn.qkv, fused, num_heads=num_heads, **options)
        if "proj" in targets:
            block.attn.proj = _whole(block.attn.proj, options)
        if "mlp" in targets:
            for name in block.mlp_layers:
                setattr(block.mlp, name, _whole(getattr(block.mlp, name), options))


def add_decoder_lora(transformer: nn.Module, **options: Any) -> None:
    """Put updates on query and value of every attention of a mask decoder's transformer, in place (SAMed_s).

    Args:
        transformer: a `TwoWayTransformer`.
        options: of `LoRALinear`.
    """
    layers = transformer.layers
    attentions = [
        *(layer.self_attn for layer in layers),
        *(layer.cross_attn_token_to_image for layer in layers),
        *(layer.cross_attn_image_to_token for layer in layers),
        transformer.final_attn_token_to_image,
    ]
    for attention in attentions:
        attention.q_proj = _whole(attention.q_proj, options)
        attention.v_proj = _whole(attention.v_proj, options)


def lora_layers(network: nn.Module) -> list[LoRALinear]:
    """Return every layer of a network that carries updates."""
    return [module for module in network.modules() if isinstance(module, LoRALinear)]


def merge_lora(network: nn.Module) -> None:
    """Merge every update of a network into its layer, for inference."""
    for layer in lora_layers(network):
        layer.merge()


def unmerge_lora(network: nn.Module) -> None:
    """Undo `merge_lora`, to the bit."""
    for layer in lora_layers(network):
        layer.unmerge()


@contextmanager
def merged_lora(network: nn.Module) -> Iterator[None]:
    """Have a network's updates merged for as long as that lasts; one that was merged before stays so."""
    layers = [layer for layer in lora_layers(network) if not layer.merged]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer in layers:
            layer.unmerge()


def _whole(linear: nn.Linear, options: Mapping[str, Any]) -> LoRALinear:
    return LoRALinear(linear, {WHOLE: slice(0, linear.out_features)}, **options)
