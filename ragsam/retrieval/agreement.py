"""Agreement: how well the labels of a bank's slices are found by the vote of its other patients, and what to trust.

Where the vote finds no more of an organ than chance does, neighbours are poor or labels are wrong, and it deserves no
trust. Where neighbours disagree their vote spreads, organs lose their majority to the background, and
every vote for one counts for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

import numpy as np

#: Dice beyond chance up to which a vote gets no trust, and from which it gets full trust.
NO_TRUST_DICE, FULL_TRUST_DICE = 0.1, 0.2
#: The boost of a bank that cannot measure it.
USUAL_BOOST = 2.0


@dataclass(frozen=True)
class Agreement:
    """How well a bank agrees with itself, by class, background first.

    Attributes:
        dice: of the vote, over all slices that asked; None for a class that none of them has.
        chance: of the same votes with the labels of slices drawn at random.
        patients: how many were asked. One has only itself to agree with.
        boost: how many times over a vote for an organ counts beside one for the background: what finds the labels best.
            Both shares of Dice are with it.
        doubtful: the Dice of patients whose labels the others' vote hardly finds, by their pseudonyms.
    """

    dice: tuple[float | None, ...]
    chance: tuple[float | None, ...]
    patients: int
    boost: float = USUAL_BOOST
    doubtful: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what a manifest keeps."""
        return asdict(self)

    @classmethod
    def of_json(cls, content: Any) -> Agreement:
        """Return what `as_json` gave.

        Raises:
            ValueError: anything else.
        """
        try:
            shares = {name: tuple(content[name]) for name in ("dice", "chance")}
            made = cls(**{**content, **shares})
            sum(filter(None, (*made.dice, *made.chance)))  # they are numbers
            sound = 0 < made.boost < inf and isinstance(made.doubtful, dict)
        except (TypeError, KeyError) as error:
            raise ValueError("not an agreement") from error
        if not sound or not made.dice or len(made.dice) != len(made.chance):
            raise ValueError("an agreement that does not hold together")
        return made

    @property
    def trust(self) -> tuple[float, ...]:
        """How far the vote on each class can be trusted, 0-1: 1 for the background, and where it is not known."""
        dice, chance = (np.array(shares[1:], float) for shares in (self.dice, self.chance))  # NaN for None
        beyond = np.nan_to_num(dice - np.nan_to_num(chance), nan=1.0)
        trust = (beyond - NO_TRUST_DICE) / (FULL_TRUST_DICE - NO_TRUST_DICE)
        return (1.0, *trust.clip(0, 1).tolist())

    def in_words(self, organs: Sequence[str]) -> str:
        """Return the Dice of each organ that is known."""
        pairs = zip(organs, self.dice[1:], strict=False)
        return ", ".join(f"{name} {dice:.2f}" for name, dice in pairs if dice is not None)
