"""Convolutions with their activation in one pass, through oneDNN on a CPU: the result is written once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import mkldnn
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from ragsam.networks.inference_mode import is_plain_inference

#: oneDNN's convolution with an activation, where this PyTorch has it; it has no public name for plain tensors.
_ONEDNN = None
if mkldnn.is_available():
    _ONEDNN = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
#: Its names for no activation, and for GELU by the error function.
_NONE, _GELU = ("none", ""), ("gelu", "none")


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, groups: int = 1, gelu: bool = False
) -> Tensor:
    """Convolve [B, C, H, W] with an odd kernel, padded by half of it, and apply GELU if asked for.

    Where nothing but the result is wanted, in float32 on a CPU, it is one pass, with channels last; else PyTorch's own
    operations, equal to rounding.
    """
    padding = weight.shape[-1] // 2
    if _takes_onednn(x, weight):
        name, algorithm = _GELU if gelu else _NONE
        x = x.contiguous(memory_format=torch.channels_last)
        sizes = ([padding] * 2, [stride] * 2, [1, 1])
        return _ONEDNN(x, weight, bias, *sizes, groups, name, [], algorithm)
    x = F.conv2d(x, weight, bias, stride, padding, groups=groups)
    return F.gelu(x) if gelu else x


def _takes_onednn(x: Tensor, weight: Tensor) -> bool:
    conditions = (
        _ONEDNN is not None,
        mkldnn.enabled,
        is_plain_inference(x),
        not torch.is_autocast_enabled("cpu"),
        x.dtype == weight.dtype == torch.float32,
        x.numel() > 0,
    )
    return all(conditions)


if _ONEDNN is not None:

    @register_flop_formula(_ONEDNN)
    def _flops(x: torch.Size, weight: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
        return conv_flop_count(x, weight, out_shape)
