"""Whole slices segmented as SAMed's own test segments them: resized twice, labels brought back by the nearest.

Source: SAMed (arXiv:2304.13785), the facts of its `test_single_volume`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom
from torch import Tensor

from ragsam.console.slice_progress import slice_progress
from ragsam.errors import InputError
from ragsam.networks.precision import autocast, autocast_dtype


def require_samed_alone(beside: Mapping[str, Any]) -> None:
    """Refuse what SAMed's test has not.

    Raises:
        InputError: one of these names has a value; the message names the first.
    """
    for name, value in beside.items():
        if value:
            raise InputError(f"samed_size: SAMed's test gives labels alone, without {name}; switch one of them off")


@torch.no_grad()
def samed_volume(
    volume: Tensor, network: Callable[[Tensor], Tensor], *, first_size: int, size: int, precision: str
) -> Tensor:
    """Return the labels [1, H, W, D], uint8, of a volume [1, H, W, D], one slice at a time; see `samed_labels`.

    LoRA is not merged meanwhile: rounding may turn a voxel.

    Args:
        precision: of the network's arithmetic, see `autocast_dtype`.
    """
    dtype = autocast_dtype(precision, volume.device)
    planes = volume[0].as_subclass(Tensor)
    made = torch.empty((1, *planes.shape), dtype=torch.uint8, device=volume.device)

    def run(slices: Tensor) -> Tensor:
        with autocast(dtype, volume.device):
            return network(slices.to(volume.device))

    with slice_progress(planes.shape[-1]) as progress:
        for number, plane in enumerate(planes.unbind(-1)):
            labels = samed_labels(plane.float().cpu().numpy(), run, first_size=first_size, size=size)
            made[0, ..., number] = torch.from_numpy(labels).to(made)
            progress.reach(number + 1)
    return made


def samed_labels(
    plane: NDArray[np.float32], run: Callable[[Tensor], Tensor], *, first_size: int, size: int
) -> NDArray[np.uint8]:
    """Return the labels [H, W] of a slice.

    It is resized to `first_size` squared and from there to `size` squared by cubic splines, outermost pixels on
    outermost pixels, and repeated three times; the largest probability chooses a pixel's class, and the labels are
    resized to the slice by the nearest. Resizing overshoots: the network sees values below 0 and above 1, as SAMed's
    does.

    Args:
        plane: [H, W], 0-1.
        run: gives the logits [1, K + 1, size, size] of a slice [1, 3, size, size].
    """
    shape = plane.shape
    seen = _resized(_resized(plane, (first_size, first_size), order=3), (size, size), order=3)
    slices = torch.from_numpy(seen).float().expand(1, 3, -1, -1)
    chosen = run(slices).float().softmax(1).argmax(1)[0]
    return _resized(chosen.to(torch.uint8).cpu().numpy(), shape, order=0)


def _resized(plane: NDArray, shape: tuple[int, int], *, order: int) -> NDArray:
    if plane.shape == shape:
        return plane
    factors = [new / old for new, old in zip(shape, plane.shape, strict=True)]
    return zoom(plane, factors, order=order)
