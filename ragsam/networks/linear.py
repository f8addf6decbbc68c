"""A linear layer that multiplies by oneDNN on a CPU, where PyTorch's own takes MKL, which is slower on many of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.backends import mkldnn
from torch.utils.flop_counter import register_flop_formula

#: oneDNN's product, where this PyTorch has it; it has no public name for plain tensors.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if mkldnn.is_available() else None


class Linear(nn.Linear):
    """`nn.Linear`, the same to rounding: in float32 on a CPU, outside of graphs that are recorded, through oneDNN.

    The gradient of a weight stays with PyTorch's own product, which is the faster one there.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [..., inputs] to [..., outputs]."""
        if not _taken(x, self.weight):
            return super().forward(x)
        out = _Product.apply(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        return out.view(*x.shape[:-1], -1)  # viewed here: what a function views itself may not be written into


class _Product(torch.autograd.Function):
    """The product of rows [N, inputs] with a weight [outputs, inputs], plus a bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)  # a frozen weight needs no input
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t(), None) if of_x else None,
            gradient.t() @ x if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _ONEDNN(x, weight, bias, "none", [], "")


def _taken(x: Tensor, weight: Tensor) -> bool:
    if _ONEDNN is None or not mkldnn.enabled or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    alike = x.device == weight.device == torch.device("cpu") and x.dtype == weight.dtype == torch.float32
    return alike and x.numel() > 0 and not torch.is_autocast_enabled("cpu")


if _ONEDNN is not None:

    @register_flop_formula(_ONEDNN)
    def _flops(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * x.numel() * weight[0]
