"""Randomness by epoch: what an epoch draws depends only on the seed and the epoch's number."""

from __future__ import annotations

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.utils import set_determinism

from ragsam.data.slices import SliceDataset


class EpochSeeds:
    """Seeds every source of random numbers at the start of each epoch, so that a training can resume at any epoch.

    Seeded are Python's, numpy's and torch's generators, on all devices, and the random transforms of the slices. Worker
    processes and samplers draw their seeds from torch's. Each of several processes has seeds of its own.
    """

    def __init__(self, seed: int, dataset: SliceDataset) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; after the handlers that draw at an epoch's start, before its batches."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)

    def start(self, engine: Engine) -> None:
        """Seed for the epoch at hand."""
        seed = epoch_seed(self.seed, engine.state.epoch, idist.get_rank())
        set_determinism(seed=seed)
        self.dataset.set_random_state(seed)


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Return the seed, 32 bits, of an epoch in a process; neighbouring epochs' seeds are unrelated."""
    numbers = [seed % 2**32, epoch]
    if rank:  # the first process draws as one that is alone
        numbers.append(rank)
    (state,) = np.random.SeedSequence(numbers).generate_state(1)
    return int(state)
