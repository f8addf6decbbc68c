"""Files of prompts: what a person asks of some volumes, as JSON; the format is told in docs/prompts.md."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.files import read_json
from ragsam.transforms.voxel_prompts import VoxelBox, VoxelPoint

_KEYS = {"organ", "object", "points", "box", "mask", "propagate", "refine"}
_AXES = ("i", "j", "k")


@dataclass(frozen=True)
class MaskFile:
    """A draft of an object: the voxels of a label volume that have a value, or all that are not 0 where it is None."""

    path: Path
    value: int | None = None


@dataclass(frozen=True)
class ObjectPrompts:
    """What is asked for one object of a volume.

    Attributes:
        name: of an organ, or whatever the object is called.
        organ: whether it is an organ of the card.
        points, box, mask: the prompts, in voxels of the volume's file.
        propagate: follow the object from the prompted slices through the volume.
        refine: begin with the automatic result for the organ.
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
        card: the organs that there are.

    Raises:
        InputError: no JSON of this kind, an unknown organ, a number that is none, or an object without prompts.
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
    """Read what is asked for the objects of one case, as a file of prompts has it.

    Args:
        where: how errors name it.
        folder: paths are relative to it.

    Raises:
        InputError: as `read_prompts`.
    """
    if not isinstance(asked, list) or not asked:
        raise InputError(f"{where}: a case has a list of objects, at least one; see docs/prompts.md")
    objects = tuple(_object(one, f"{where}: object {n}", folder, card) for n, one in enumerate(asked, start=1))
    names = [one.name for one in objects]
    if double := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{where}: {double[0]} stands twice; put its prompts together")
    return objects


def _object(asked: Any, where: str, folder: Path, card: Card) -> ObjectPrompts:
    _require_keys(asked, _KEYS, where)
    if ("organ" in asked) == ("object" in asked):
        raise InputError(f"{where}: name it by either organ or object")
    organ = "organ" in asked
    name = asked["organ" if organ else "object"]
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: its name is not a text")
    if organ and name not in card.labels:
        raise InputError(f"{where}: {name} is no organ of the card {card.name}; it has {', '.join(card.labels)}")
    if not organ and name in card.labels:
        raise InputError(f'{where}: {name} is an organ of the card; write it as "organ"')
    points = asked.get("points", [])
    if not isinstance(points, list):
        raise InputError(f"{where}: points are a list")
    flags = {flag: _flag(asked.get(flag, False), f"{where}: {flag}") for flag in ("propagate", "refine")}
    found = ObjectPrompts(
        name,
        organ,
        tuple(_point(one, f"{where}: point {n}") for n, one in enumerate(points, start=1)),
        _box(asked["box"], f"{where}: box") if "box" in asked else None,
        _mask(asked["mask"], f"{where}: mask", folder) if "mask" in asked else None,
        **flags,
    )
    if not found.points and found.box is None and found.mask is None:
        raise InputError(f"{where}: no prompt; give points, a box or a mask")
    if found.refine and not (organ and found.mask is None):
        raise InputError(f"{where}: refine begins with the automatic result of an organ; leave out refine or the mask")
    return found


def _point(asked: Any, where: str) -> VoxelPoint:
    _require_keys(asked, {*_AXES, "inside"}, where, needed=_AXES)
    inside = _flag(asked.get("inside", True), f"{where}: inside")
    return VoxelPoint(*(_number(asked[axis], f"{where}: {axis}") for axis in _AXES), inside=inside)


def _box(asked: Any, where: str) -> VoxelBox:
    _require_keys(asked, set(_AXES), where, needed=_AXES)
    for axis in _AXES:
        if not isinstance(asked[axis], list) or len(asked[axis]) != 2:
            raise InputError(f"{where}: {axis} is not [first, last], the box's outermost voxels")
    return VoxelBox(*(tuple(_number(end, f"{where}: {axis}") for end in asked[axis]) for axis in _AXES))


def _mask(asked: Any, where: str, folder: Path) -> MaskFile:
    _require_keys(asked, {"file", "value"}, where, needed=("file",))
    value = asked.get("value")
    if not isinstance(asked["file"], str) or not (value is None or type(value) is int):
        raise InputError(f"{where}: file is a path, value a whole number")
    return MaskFile(folder / asked["file"], value)


def _require_keys(asked: Any, known: set[str], where: str, needed: Sequence[str] = ()) -> None:
    if not isinstance(asked, Mapping):
        raise InputError(f"{where}: not an object with {', '.join(sorted(known))}")
    if unknown := sorted(set(asked) - known):
        raise InputError(f"{where}: {unknown[0]} is unknown; there are {', '.join(sorted(known))}")
    if missing := [key for key in needed if key not in asked]:
        raise InputError(f"{where}: {missing[0]} is missing; it needs {', '.join(needed)}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {value!r} is not a number; give an array index of the input's file")
    return float(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{where}: {value!r} is neither true nor false")
    return value
