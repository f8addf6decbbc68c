"""A linear layer that multiplies by oneDNN on a CPU, where PyTorch's own takes MKL, which is slower on many of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.backends import mkldnn
from torch.utils.flop_counter import register_flop_formula

from ragsam.networks.inference_mode import is_plain_inference

#: oneDNN's product, where this PyTorch has it; it has no public name for plain tensors.
_ONEDNN = None
if mkldnn.is_available():
    _ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Linear(nn.Linear):
    """`nn.Linear`, the same to rounding: in float32 on a CPU, outside of graphs that are recorded, through oneDNN.

    The gradient of a weight stays with PyTorch's own product, which is the faster one there.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [..., inputs] to [..., outputs]."""
        if not _takes_onednn(x, self.weight):
            return super().forward(x)
        out = _Product.apply(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        return out.view(*x.shape[:-1], -1)  # viewed here: what a function views itself may not be written into

    def gelu(self, x: Tensor) -> Tensor:
        """Map `x` [..., inputs] to [..., outputs], through GELU; in one pass where nothing but the result is wanted."""
        replaced = "forward" in vars(self)  # in int8
        if replaced or not is_plain_inference(x) or not _takes_onednn(x, self.weight):
            return F.gelu(self(x))
        out = _ONEDNN(x.reshape(-1, x.shape[-1]), self.weight, self.bias, "gelu", [], "none")
        return out.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """The product of rows [N, inputs] with a weight [outputs, inputs], plus a bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)  # a frozen weight needs no input
        return _ONEDNN(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_wants, weight_wants, bias_wants = ctx.needs_input_grad
        of_x = of_weight = of_bias = None
        if x_wants:
            of_x = _ONEDNN(gradient, weight.t(), None, "none", [], "")
        if weight_wants:
            of_weight = gradient.t() @ x
        if bias_wants:
            of_bias = gradient.sum(0)
        return of_x, of_weight, of_bias


def _takes_onednn(x: Tensor, weight: Tensor) -> bool:
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    conditions = (
        _ONEDNN is not None,
        mkldnn.enabled,
        not torch.is_autocast_enabled("cpu"),
        x.device == weight.device == torch.device("cpu"),
        x.dtype == weight.dtype == torch.float32,
        x.numel() > 0,
    )
    return all(conditions)


if _ONEDNN is not None:

    @register_flop_formula(_ONEDNN)
    def _flops(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * x.numel() * weight[0]
