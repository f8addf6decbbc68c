"""What a network consists of, part by part: parameters that train, parameters that are frozen, and arithmetic."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ragsam.networks.segmenter import Segmenter
from ragsam.networks.supports import Supports

#: Parts, and what the names of their parameters and modules match; where several do it is the last one's.
PARTS = {
    "image encoder": r"sam\.image_encoder\.",
    "neck": r"sam\.image_encoder\.neck\.",
    "LoRA": r"sam\.image_encoder\..*\.updates\.",
    "space adapters": r"sam\.image_encoder\..*\.space_adapter\.",
    "MLP adapters": r"sam\.image_encoder\..*\.mlp_adapter\.",
    "depth adapters": r"sam\.image_encoder\..*\.depth_adapter\.",
    "frequency prompts": r"sam\.image_encoder\.frequency\.",
    "prompt encoder": r"sam\.prompt_encoder\.",
    "mask decoder": r"sam\.mask_decoder\.|$",  # the network's own arithmetic is the product of masks and features
    "LoRA of the decoder": r"sam\.mask_decoder\..*\.updates\.",
    "prompt head": r"prompt_head\.",
    "detail branch": r"(stem|detail)\.",
    "fusion": r"fusion\.",
}


@dataclass(frozen=True)
class Part:
    """A part of a network.

    Attributes:
        trained, frozen: numbers of parameters.
        flops: of one slice, a multiply-add counting 2.
    """

    name: str
    trained: int
    frozen: int
    flops: int


def count_parts(network: Segmenter, *, channels: int = 3) -> list[Part]:
    """Return the parts that a network has, in the order of `PARTS`; together they are the whole network.

    FLOPs are those of matrix products, attention and convolutions, as PyTorch runs them to segment a slice with one
    neighbour and without prompts; Fourier transforms are not counted. A network on the meta device takes no time.

    Args:
        network: left in evaluation mode.
        channels: of the input; of a network with depth adapters the slices of a stack, each of which is encoded.
    """
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        counts = trained if parameter.requires_grad else frozen
        counts[_part_of(name)] += parameter.numel()
    for name, count in _flops_by_module(network.eval(), channels).items():
        flops[_part_of(name)] += count
    held = trained.keys() | frozen.keys() | flops.keys()
    names = [name for name in PARTS if name in held]
    names += sorted(held - PARTS.keys())
    return [Part(name, trained[name], frozen[name], flops[name]) for name in names]


def _part_of(name: str) -> str:
    """Return the part of a parameter or of a module, whose name ends with a dot; what is not in `PARTS` is its own."""
    found = name.split(".")[0]
    for part, pattern in PARTS.items():
        if re.match(pattern, name):
            found = part
    return found


@torch.enable_grad()  # without gradients attention goes another way on a CPU than elsewhere
def _flops_by_module(network: Segmenter, channels: int) -> dict[str, int]:
    """Return the FLOPs of every module by its name and a dot, without those of the modules within it."""
    size = network.image_size
    device = next(network.parameters()).device
    image = torch.zeros(1, channels, size, size, device=device)
    labels = torch.zeros(1, 1, size, size, dtype=torch.uint8, device=device)
    supports = Supports(labels, torch.ones(1, 1, device=device))
    with torch.device(device), FlopCounterMode(display=False) as counter:
        network(image, supports=supports)
    counts = counter.get_flop_counts()
    counts.pop("Global")
    own = {name: sum(by_operator.values()) for name, by_operator in counts.items()}
    for name, by_operator in counts.items():
        around = [other for other in counts if name.startswith(f"{other}.")]
        if around:
            own[max(around, key=len)] -= sum(by_operator.values())
    root = type(network).__name__
    return {f"{name}.".removeprefix(f"{root}."): count for name, count in own.items()}
