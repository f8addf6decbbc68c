"""The precision of a network's arithmetic: which autocast it runs under, and whether its gradients are scaled."""

from __future__ import annotations

import torch

from ragsam.errors import InputError

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Of the encoder's linear layers alone, in inference.
INT8 = "int8"
PRECISIONS = ("auto", *_DTYPES, INT8)


def known_precision(precision: str) -> str:
    """Return the name of a precision.

    Raises:
        InputError: it is not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    return precision


def autocast_dtype(precision: str, device: torch.device | str) -> torch.dtype | None:
    """Return what autocast computes in on a device; None for float32.

    Args:
        precision: `auto` is bfloat16 on a GPU that has it, float16 on another, float32 on a CPU.

    Raises:
        InputError: another name, float16 on a CPU, whose gradients vanish and which is no faster there, or `INT8`,
            which nothing learns in.
    """
    kind = torch.device(device).type
    if known_precision(precision) == INT8:
        raise InputError("precision: int8 is for segmenting alone; choose auto, float32 or bfloat16")
    if precision == "float16" and kind == "cpu":
        raise InputError("precision: float16 needs a GPU; choose bfloat16 or float32")
    if precision != "auto":
        return _DTYPES[precision]
    if kind == "cpu":
        return None
    if torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


def is_int8(precision: str, device: torch.device | str) -> bool:
    """Return whether the encoder's linear layers are rounded to int8, in inference.

    Raises:
        InputError: on a GPU.
    """
    if precision != INT8:
        return False
    if torch.device(device).type != "cpu":
        raise InputError("precision: int8 is for a CPU; choose auto, bfloat16 or float16")
    return True


def autocast(dtype: torch.dtype | None, device: torch.device) -> torch.autocast:
    """Return the context of an `autocast_dtype`; None leaves autocast as the caller has set it."""
    if dtype is not None:
        return torch.autocast(device.type, dtype)
    entered = torch.get_autocast_dtype(device.type)
    return torch.autocast(device.type, entered, enabled=torch.is_autocast_enabled(device.type))


def scales_gradients(precision: str, device: torch.device | str) -> bool:
    """Return whether losses must be scaled, or small gradients would be lost: in float16."""
    return autocast_dtype(precision, device) is torch.float16
