"""Files of prompts: what a person asks of some volumes, as JSON; docs/reference/prompts.md describes the format."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.io.documents import read_json
from ragsam.transforms.voxel_prompts import VoxelBox, VoxelPoint

_KEYS = {"organ", "object", "points", "box", "mask", "propagate", "refine"}
_AXES = ("i", "j", "k")
_EXAMPLE = '[{"organ": "liver", "points": [{"i": 210, "j": 305, "k": 41}]}]'


@dataclass(frozen=True)
class MaskFile:
    """A draft of an object: the voxels of a label volume with a value, or, for None, all that are not 0."""

    path: Path
    value: int | None = None


@dataclass(frozen=True)
class ObjectPrompts:
    """The prompts for one object of a volume.

    Attributes:
        name: of an organ, or any name for the object.
        organ: whether it is an organ of the card.
        points, box, mask: the prompts, in voxels of the volume's file.
        propagate: follow the object from the prompted slices through the volume.
        refine: start from the automatic result for the organ.
    """

    name: str
    organ: bool
    points: tuple[VoxelPoint, ...] = ()
    box: VoxelBox | None = None
    mask: MaskFile | None = None
    propagate: bool = False
    refine: bool = False


def read_prompts(path: str | os.PathLike[str], card: Card) -> dict[str, tuple[ObjectPrompts, ...]]:
    """Read prompts by case.

    Args:
        path: JSON; paths in it are relative to it.
        card: with the known organs.

    Raises:
        InputError: no JSON of this kind, an unknown organ, an invalid number, or an object without prompts.
    """
    file = Path(path).absolute()
    content = read_json(file)
    if not isinstance(content, Mapping) or not content:
        raise InputError(f'{file.name}: prompts are an object of cases, {{"CASE": [{{"organ": ..., "points": ...}}]}}')
    found = {}
    for case, asked in content.items():
        found[str(case)] = read_objects(asked, f"{file.name}: {case}", file.parent, card)
    return found


def read_objects(asked: Any, where: str, folder: Path, card: Card) -> tuple[ObjectPrompts, ...]:
    """Read the prompts for the objects of a case, as in a file of prompts.

    Args:
        where: names the case in errors.
        folder: paths are relative to it.

    Raises:
        InputError: as `read_prompts`.
    """
    valid = isinstance(asked, list) and asked
    _require(valid, f"{where}: a case has a list of objects, at least one, such as {_EXAMPLE}")
    objects = {}
    for number, entry in enumerate(asked, start=1):
        found = _object(entry, f"{where}: object {number}", folder, card)
        _require(found.name not in objects, f"{where}: {found.name} occurs twice; put its prompts together")
        objects[found.name] = found
    return tuple(objects.values())


def _object(asked: Any, where: str, folder: Path, card: Card) -> ObjectPrompts:
    _require_keys(asked, _KEYS, where)
    organ = "organ" in asked
    _require(organ != ("object" in asked), f"{where}: name it by either organ or object")
    name = asked.get("organ", asked.get("object"))
    _require(isinstance(name, str) and name.strip(), f"{where}: its name is not a text")
    if organ:
        organs = ", ".join(card.labels)
        _require(name in card.labels, f"{where}: {name} is not an organ of the card {card.name}; it has {organs}")
    else:
        _require(name not in card.labels, f'{where}: {name} is an organ of the card; write it as "organ"')
    listed = asked.get("points", [])
    _require(isinstance(listed, list), f"{where}: points are a list")
    propagate = _flag(asked.get("propagate", False), f"{where}: propagate")
    refine = _flag(asked.get("refine", False), f"{where}: refine")
    points = []
    for number, entry in enumerate(listed, start=1):
        points.append(_point(entry, f"{where}: point {number}"))
    box = None
    if "box" in asked:
        box = _box(asked["box"], f"{where}: box")
    mask = None
    if "mask" in asked:
        mask = _mask(asked["mask"], f"{where}: mask", folder)
    _require(points or box or mask, f"{where}: no prompt; give points, a box or a mask")
    if refine:
        _require(
            organ and not mask,
            f"{where}: refine starts from the automatic result of an organ; leave out refine or the mask",
        )
    return ObjectPrompts(name, organ, tuple(points), box, mask, propagate=propagate, refine=refine)


def _point(asked: Any, where: str) -> VoxelPoint:
    _require_keys(asked, {*_AXES, "inside"}, where, needed=_AXES)
    inside = _flag(asked.get("inside", True), f"{where}: inside")
    place = [_number(asked[axis], f"{where}: {axis}") for axis in _AXES]
    return VoxelPoint(*place, inside=inside)


def _box(asked: Any, where: str) -> VoxelBox:
    _require_keys(asked, set(_AXES), where, needed=_AXES)
    sides = []
    for axis in _AXES:
        ends = asked[axis]
        valid = isinstance(ends, list) and len(ends) == 2
        _require(valid, f"{where}: {axis} is not [first, last], the box's outermost voxels")
        first = _number(ends[0], f"{where}: {axis}")
        last = _number(ends[1], f"{where}: {axis}")
        sides.append((first, last))
    return VoxelBox(*sides)


def _mask(asked: Any, where: str, folder: Path) -> MaskFile:
    _require_keys(asked, {"file", "value"}, where, needed=("file",))
    file = asked["file"]
    value = asked.get("value")
    valid = isinstance(file, str) and type(value) in (int, type(None))
    _require(valid, f"{where}: file is a path, value a whole number")
    return MaskFile(folder / file, value)


def _require_keys(asked: Any, known: set[str], where: str, needed: Sequence[str] = ()) -> None:
    keys = ", ".join(sorted(known))
    _require(isinstance(asked, Mapping), f"{where}: not an object with {keys}")
    for key in sorted(asked):
        _require(key in known, f"{where}: {key} is unknown; there are {keys}")
    for key in needed:
        _require(key in asked, f"{where}: {key} is missing; it needs {', '.join(needed)}")


def _number(value: Any, where: str) -> float:
    valid = type(value) in (int, float) and math.isfinite(value)
    _require(valid, f"{where}: {value!r} is not a number; give an array index of the input's file")
    return float(value)


def _flag(value: Any, where: str) -> bool:
    _require(isinstance(value, bool), f"{where}: {value!r} is neither true nor false")
    return value


def _require(valid: Any, message: str) -> None:
    if not valid:
        raise InputError(message)
