"""Disk space: whether a training can write what it will have to."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from ragsam.errors import InputError


def training_bytes(network: nn.Module) -> int:
    """Return what a training writes without its bank: the weights twice, and a state of weights and Adam's moments.

    All but the log is replaced whole, so that the older file and the newer are there at once.
    """
    held = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    return 2 * (2 * held + 3 * held)


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder is, or will be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed: int) -> None:
    """Check that there is room for `needed` bytes.

    Raises:
        InputError: there is not.
    """
    if (free := free_bytes(folder)) < needed:
        raise InputError(
            f"{folder}: {free / 1e6:.0f} MB are free, the training needs about {needed / 1e6:.0f}; free some space, or "
            "choose another output"
        )
