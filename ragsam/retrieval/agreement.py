"""Agreement: how well the labels of a bank's slices are found by the vote of its other patients, and what to trust.

Where the vote finds no more of an organ than chance does, neighbours are poor or labels are wrong, and it deserves no
trust. Where neighbours do not lie on one another their vote spreads, organs lose their majority to the background, and
every vote for one counts for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

#: So much Dice beyond chance is none but chance, and so much is full trust.
LITTLE, ENOUGH = 0.1, 0.2
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
        if not isinstance(content, dict) or content.keys() != {part.name for part in fields(cls)}:
            raise ValueError("not an agreement")
        if not isinstance(content["doubtful"], dict):
            raise ValueError("an agreement whose doubtful patients are no table")
        if not isinstance(content["boost"], int | float) or not 0 < content["boost"] < float("inf"):
            raise ValueError("an agreement whose boost is no number above 0")
        shares = content["dice"], content["chance"]
        if not all(isinstance(x, list) and all(v is None or isinstance(v, int | float) for v in x) for x in shares):
            raise ValueError("an agreement that is no list of numbers")
        if not shares[0] or len(shares[0]) != len(shares[1]):
            raise ValueError("an agreement of other classes by chance")
        return cls(*map(tuple, shares), content["patients"], content["boost"], content["doubtful"])

    @property
    def trust(self) -> tuple[float, ...]:
        """How far the vote on each class can be trusted, 0-1: 1 for the background, and where it is not known."""
        pairs = zip(self.dice[1:], self.chance[1:], strict=True)
        beyond = (1.0 if dice is None else dice - (chance or 0.0) for dice, chance in pairs)
        return (1.0, *(min(max((x - LITTLE) / (ENOUGH - LITTLE), 0.0), 1.0) for x in beyond))

    def in_words(self, organs: Sequence[str]) -> str:
        """Return the Dice of each organ that is known."""
        pairs = zip(organs, self.dice[1:], strict=False)
        return ", ".join(f"{name} {dice:.2f}" for name, dice in pairs if dice is not None)
