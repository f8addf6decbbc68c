"""Disk space: whether there is room for what a training writes."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from ragsam.errors import InputError


def training_bytes(network: nn.Module) -> int:
    """Return what a training writes without its bank.

    These are the trainable weights in two formats, and a checkpoint of the weights and Adam's two moments. Each file is
    replaced whole, so that the old one and the new one exist at once.
    """
    weights = 0
    for parameter in network.parameters():
        if parameter.requires_grad:
            weights += parameter.nbytes
    checkpoint = 3 * weights
    return 2 * (2 * weights + checkpoint)


def free_bytes(folder: Path) -> int:
    """Return the free space at a folder that exists or will be made."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed: int) -> None:
    """Check that there is room for `needed` bytes.

    Raises:
        InputError: there is not.
    """
    free = free_bytes(folder)
    if free < needed:
        raise InputError(
            f"{folder}: {free / 1e6:.0f} MB are free, but the training needs about {needed / 1e6:.0f}; free space, "
            "or choose another output"
        )
