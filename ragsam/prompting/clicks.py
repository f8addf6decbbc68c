"""Clicks and boxes as a person gives them in Python, one by one and each for an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.prompting.prompt_file import ObjectPrompts, read_objects

_OBJECT = "object"


@dataclass(frozen=True)
class Click:
    """A click, in voxel indices of the image as it is given: whole numbers are voxel centres.

    Attributes:
        i, j, k: along the image's array axes.
        inside: whether it lies in the object, or marks what does not belong to it.
        object: an organ of the run's card, or any other name.
    """

    i: float
    j: float
    k: float
    inside: bool = True
    object: str = _OBJECT


@dataclass(frozen=True)
class Box:
    """A box around an object: the first and the last voxel index along each array axis, both inside.

    Attributes:
        i, j, k: (first, last).
        object: an organ of the run's card, or any other name.
    """

    i: tuple[float, float]
    j: tuple[float, float]
    k: tuple[float, float]
    object: str = _OBJECT


def objects_of(
    prompts: Sequence[Click | Box], card: Card, *, propagate: bool = False, refine: bool = False
) -> tuple[ObjectPrompts, ...]:
    """Return what clicks and boxes ask for, object by object.

    Args:
        card: the organs that there are.
        propagate: follow every object from the prompted slices through the volume.
        refine: begin with the automatic result for every object, which must be an organ then.

    Raises:
        InputError: no prompt, numbers that are none, or two boxes for one object.
    """
    asked: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        name = prompt.object
        kind = "organ" if name in card.labels else "object"
        one = asked.setdefault(name, {kind: name, "points": [], "propagate": propagate, "refine": refine})
        place = {axis: getattr(prompt, axis) for axis in "ijk"}
        if isinstance(prompt, Click):
            numbers = {axis: float(index) for axis, index in place.items()}
            one["points"].append({**numbers, "inside": bool(prompt.inside)})
        elif "box" in one:
            raise InputError(f"prompts: {name} has two boxes; give it one, or another name to the other")
        else:
            one["box"] = {axis: [float(end) for end in ends] for axis, ends in place.items()}
    return read_objects(list(asked.values()), "prompts", Path(), card)
