"""A few fixed altered copies of every slice, for what is worked out once and kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class FixedCopies:
    """Numbers the altered copies of slices, `views` of each, and gives each a seed of its own.

    `seed` is that of the training; with another one the copies are others.
    """

    views: int
    seed: int

    def draw(self, index: int, random: np.random.RandomState) -> int:
        """Return the number of one of a slice's copies; no two copies of any slices have the same."""
        return index * self.views + int(random.randint(self.views))

    def seed_of(self, copy: int) -> int:
        """Return the seed, 32 bits, of what is drawn for a copy."""
        numbers = [self.seed % 2**32, *divmod(copy, self.views)]
        return int(np.random.SeedSequence(numbers).generate_state(1)[0])
