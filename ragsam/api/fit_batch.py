"""The largest batch that a machine's memory holds, found by trying."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ragsam.api.try_training import TrainingEstimate, try_training
from ragsam.console.memory import memory_limit
from ragsam.errors import InputError

logger = logging.getLogger(__name__)

LARGEST = 1024
#: Of the memory; the rest is for what a few batches do not show.
SHARE = 0.9


def largest_batch(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
) -> int:
    """Return the largest power of two, `LARGEST` at most, that a training can have for a batch.

    Each is tried by `try_training`, until the next one does not fit, by trying or as the last two foretell.

    Raises:
        InputError: not even one slice fits, or whatever else would stop the training.
    """
    return largest_that_fits(
        lambda size: try_training(bundle, datalist, output, {**(options or {}), "batch_size": size}), memory_limit()
    )


def largest_that_fits(attempt: Callable[[int], TrainingEstimate], limit_bytes: int) -> int:
    """Return what `largest_batch` does, of an attempt at a batch size.

    Args:
        attempt: raises an InputError that comes of a `torch.OutOfMemoryError` where memory runs out.
        limit_bytes: the memory there is.
    """
    taken: dict[int, int] = {}
    size = 1
    while size <= LARGEST and _foretold(taken, size) <= SHARE * limit_bytes:
        try:
            estimate = attempt(size)
        except InputError as error:
            if not isinstance(error.__cause__, torch.OutOfMemoryError):
                raise
            break
        taken[size] = estimate.gpu_bytes or estimate.memory_bytes
        logger.info("a batch of %d takes %.1f of %.1f GB", size, taken[size] / 1e9, limit_bytes / 1e9)
        size *= 2
    fitting = [size for size, used in taken.items() if used <= SHARE * limit_bytes]
    if not fitting:
        raise InputError("batch_size: not one slice fits the memory; lower image_size, or take --recipe low_memory")
    return max(fitting)


def _foretold(taken: Mapping[int, int], size: int) -> float:
    """Return what a batch will take, on the line through the two before it; nothing is known of the first two."""
    if len(taken) < 2:
        return 0.0
    last, before = taken[size // 2], taken[size // 4]
    return last + 2 * (last - before)
