"""Clicks and boxes given in Python, each for an object."""

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
    """A click, in voxel indices of the given image: whole numbers are voxel centres.

    Attributes:
        i, j, k: along the image's array axes.
        inside: whether it marks the object or what does not belong to it.
        object: an organ of the run's card, or any other name.

    Examples:
        >>> Click(120, 98, 40, object="liver").inside
        True
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

    Examples:
        >>> Box(i=(100, 140), j=(80, 120), k=(38, 42), object="cyst").k
        (38, 42)
    """

    i: tuple[float, float]
    j: tuple[float, float]
    k: tuple[float, float]
    object: str = _OBJECT


def objects_of(
    prompts: Sequence[Click | Box], card: Card, *, propagate: bool = False, refine: bool = False
) -> tuple[ObjectPrompts, ...]:
    """Return the prompts of every object.

    Args:
        card: with the known organs.
        propagate: follow every object from the prompted slices through the volume.
        refine: start from the automatic result for every object, which must be an organ.

    Raises:
        InputError: no prompt, invalid numbers, or two boxes for one object.
    """
    asked: dict[str, dict[str, Any]] = {}
    for prompt in prompts:
        name = prompt.object
        kind = "organ" if name in card.labels else "object"
        entry = asked.setdefault(name, {kind: name, "points": [], "propagate": propagate, "refine": refine})
        if isinstance(prompt, Click):
            place = {"i": float(prompt.i), "j": float(prompt.j), "k": float(prompt.k)}
            entry["points"].append({**place, "inside": bool(prompt.inside)})
        elif "box" in entry:
            raise InputError(f"prompts: {name} has two boxes; give it one, or name the second object differently")
        else:
            entry["box"] = {
                "i": list(map(float, prompt.i)),
                "j": list(map(float, prompt.j)),
                "k": list(map(float, prompt.k)),
            }
    return read_objects(list(asked.values()), "prompts", Path(), card)
