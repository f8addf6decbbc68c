"""The encoder's linear layers in eight-bit integers, for inference on a CPU: weights by output, inputs by token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ragsam.networks.linear import Linear

LARGEST = 127  # -128 is left out, so that both signs reach as far


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows [N, C] to whole steps, each row's own: int8 [N, C], and the steps [N, 1]."""
    steps = (values.abs().amax(1, keepdim=True) / LARGEST).clamp_min(torch.finfo(values.dtype).tiny)
    return (values / steps).round_().to(torch.int8), steps


def int8_product(x: Tensor, weight: Tensor, steps: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply tokens by a rounded weight; sums are exact, in int32.

    Args:
        x: [..., inputs], rounded here.
        weight: int8 [inputs, outputs].
        steps: [outputs], of the weight.
        bias: [outputs].

    Returns:
        [..., outputs], float32.
    """
    tokens, sizes = rounded(x.reshape(-1, x.shape[-1]).float())
    out = torch._int_mm(tokens, weight).float().mul_(sizes).mul_(steps)  # it has no public name; torchao calls it too
    if bias is not None:
        out.add_(bias)
    return out.view(*x.shape[:-1], -1)


@contextmanager
def int8_linears(network: nn.Module) -> Iterator[None]:
    """Have a network's `Linear` layers multiply in int8 for as long as that lasts; nothing of it stays.

    Low-rank updates are not rounded: they are added as they are, so they must not be merged.
    """
    layers = [module for module in network.modules() if isinstance(module, Linear)]
    try:
        for layer in layers:
            weight, steps = rounded(layer.weight.detach().float())
            layer.forward = partial(int8_product, weight=weight.t().contiguous(), steps=steps[:, 0], bias=layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
