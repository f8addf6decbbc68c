"""A card's yaml, checked strictly: whatever is not exactly right is refused in one line that says what to write."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, filterfalse
from typing import Any

from ragsam.data.cards.checks import Faults, are_whole, check_keys, is_number, is_whole, one_of, text, texts
from ragsam.data.cards.model import LAYOUTS, PROTOCOLS, Card, Code, Organ
from ragsam.data.cards.patients import parse_patient_rule, parse_split
from ragsam.errors import InputError

#: What has no sensible default.
_REQUIRED = ("name", "modality", "organs")
_OPTIONAL = ("title", "window", "orientation", "licence", "source", "citation")
_OPTIONAL += ("left_right", "raw_ignored", "layouts", "patient_rule", "split", "protocol", "notes")
_NOT_GIVEN = "not given"
_TOLERANCE_MM = 3
_MODALITIES = ("CT", "MR")
_MAX_ORGANS = 255  # label volumes are uint8
_MAX_RAW = 2**31 - 1
_CODE_LENGTHS = {"scheme": 16, "value": 16, "meaning": 64}  # DICOM PS3.5: SH, SH, LO


def parse_card(content: Any, *, where: str = "card") -> Card:
    """Turn a card's parsed yaml, see `docs/reference/cards.md`, into a `Card`; `where` is how errors name it.

    Raises:
        InputError: everything that is wrong, in one line: unknown or missing key, organ values that are not 1..K,
            duplicate names, a raw value used twice, a colour that is not three whole numbers 0-255, a window that does
            not ascend, and the like.
    """
    faults = Faults(where)
    if not isinstance(content, Mapping):
        check_keys(content, _REQUIRED, _OPTIONAL, where)
    with faults.noted():
        check_keys(content, _REQUIRED, _OPTIONAL, where)
    parts: dict[str, Any] = {}
    for key, parse in _PARTS.items():
        if key in content or key not in _REQUIRED:
            with faults.noted():
                parts[key] = parse(content.get(key), f"{where}: {key}")
    organs: tuple[Organ, ...] = ()
    if "organs" in content:
        organs = _organs(content["organs"], faults)
    if organs:
        with faults.noted():
            parts["left_right"] = _left_right(content.get("left_right"), organs, where)
    doubled = _doubled(chain(*(organ.raw_values for organ in organs), parts.get("raw_ignored", ())))
    with faults.noted():
        if doubled:
            raise InputError(f"{where}: raw value {doubled} is used twice; a value of the label files has one meaning")
    faults.tell()
    parts["title"] = parts["title"] or parts["name"]
    return Card(organs=organs, **parts)


def _described(content: Any, where: str) -> str:
    return _NOT_GIVEN if content is None else text(content, where)


def _optional_text(content: Any, where: str) -> str | None:
    return None if content is None else text(content, where)


def _orientation(content: Any, where: str) -> str:
    if content not in (None, "RAS"):
        raise InputError(f"{where} is {content!r}; volumes are reoriented to RAS, write RAS")
    return "RAS"


def _modality(content: Any, where: str) -> str:
    return one_of(content, _MODALITIES, where)


def _ignored(content: Any, where: str) -> tuple[int, ...]:
    return () if content in (None, []) else _raw_values(content, where)


def _protocol(content: Any, where: str) -> str:
    return one_of("clinical" if content is None else content, PROTOCOLS, where)


def _layouts(content: Any, where: str) -> tuple[str, ...]:
    names = () if content in (None, []) else texts(content, where)
    return tuple(one_of(name, LAYOUTS, where) for name in names)


def _organs(content: Any, faults: Faults) -> tuple[Organ, ...]:
    where = faults.where
    organs: list[Organ] = []
    with faults.noted():
        if not isinstance(content, list) or not content:
            raise InputError(f"{where}: organs must be a list with at least one organ")
        for index, entry in enumerate(content, start=1):
            with faults.noted():
                organs.append(_organ(entry, index, f"{where}: organ {index}"))
        if len(organs) < len(content):
            return ()  # what they have in common is reported once they are right
    with faults.noted():
        if doubled := _doubled([organ.name for organ in organs]):
            raise InputError(f"{where}: organ {doubled} is named twice; names must differ")
    with faults.noted():
        values = [organ.value for organ in organs]
        if values != list(range(1, len(organs) + 1)) or len(organs) > _MAX_ORGANS:
            told = f"{where}: organ values are {values}; they must be 1 to {len(organs)} in order, at most 255"
            raise InputError(f"{told}; the numbers of the label files go to raw")
    return tuple(organs)


def _organ(content: Any, index: int, where: str) -> Organ:
    # `components` is in cards of before, and of no use any more.
    check_keys(content, ("name",), ("value", "colour", "tolerance_mm", "raw", "code", "components"), where)
    name = text(content["name"], f"{where}: name")
    value = content.get("value", index)
    if not is_whole(value):
        raise InputError(f"{where}: value of {name} is {value!r}; it must be a whole number")
    colour = content.get("colour", _usual_colour(index))
    if not are_whole(colour, 0, 255) or len(colour) != 3:
        raise InputError(f"{where}: colour of {name} is {colour!r}; it must be three whole numbers from 0 to 255")
    tolerance_mm = content.get("tolerance_mm", _TOLERANCE_MM)
    if not is_number(tolerance_mm) or tolerance_mm <= 0:
        raise InputError(f"{where}: tolerance_mm of {name} is {tolerance_mm!r}; it must be above 0")
    raw: tuple[int, ...] = ()
    if "raw" in content:
        raw = _raw_values(content["raw"], f"{where}: raw of {name}")
    code = None
    if "code" in content:
        code = _code(content["code"], f"{where}: code of {name}", optional=("modifier",))
    return Organ(name, value, tuple(colour), float(tolerance_mm), raw, code)


def _usual_colour(index: int) -> list[int]:
    """Return a colour that is unlike those of the organs before: hues a golden section apart."""
    hue = index * 0.618034 % 1
    return [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.6, 0.9)]


def _raw_values(content: Any, where: str) -> tuple[int, ...]:
    if not are_whole(content, 1, _MAX_RAW):
        raise InputError(f"{where} is {content!r}; it must be a list of whole numbers above 0, such as [12, 13]")
    return tuple(content)


def _doubled(values: Iterable[Any]) -> str:
    """Return what is there more than once, sorted."""
    count = Counter(values)
    count.subtract(set(count))
    return ", ".join(map(str, sorted(+count)))


def _code(content: Any, where: str, *, optional: tuple[str, ...] = ()) -> Code:
    check_keys(content, tuple(_CODE_LENGTHS), optional, where)
    parts = {}
    for key, longest in _CODE_LENGTHS.items():
        if is_whole(content[key]):
            raise InputError(f'{where}: {key} is the number {content[key]}; write it as a text: "{content[key]}"')
        parts[key] = text(content[key], f"{where}: {key}")
        if len(parts[key]) > longest:
            raise InputError(f"{where}: {key} {parts[key]!r} is longer than the {longest} letters that DICOM allows")
    modifier = None
    if "modifier" in content:
        modifier = _code(content["modifier"], f"{where}: modifier")
    return Code(**parts, modifier=modifier)


def _window(content: Any, where: str) -> tuple[float, float] | None:
    if content is None:
        return None
    if not isinstance(content, list) or len(content) != 2 or not all(map(is_number, content)):
        raise InputError(f"{where} is {content!r}; it must be [low, high] or null")
    low, high = map(float, content)
    if low >= high:
        raise InputError(f"{where} {content} does not ascend; write the lower end first")
    return low, high


def _left_right(content: Any, organs: tuple[Organ, ...], where: str) -> tuple[tuple[str, str], ...]:
    if content is None:
        return ()
    if not isinstance(content, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
        raise InputError(f"{where}: left_right is {content!r}; it must be a list of pairs of organ names")
    named = list(chain.from_iterable(content))
    known = {organ.name for organ in organs}
    unknown = list(filterfalse(known.__contains__, named))
    if unknown:
        told = ", ".join(map(str, unknown))
        raise InputError(f"{where}: left_right names {told}, which is not an organ of the card")
    if len(set(named)) != len(named):
        raise InputError(f"{where}: left_right names an organ twice; an organ has one counterpart")
    return tuple(map(tuple, content))


#: How the parts of a card that stand for themselves are read; None is a part that is left out.
_PARTS: dict[str, Callable[[Any, str], Any]] = {
    "name": text,
    "title": _optional_text,
    "modality": _modality,
    "window": _window,
    "orientation": _orientation,
    "licence": _described,
    "source": _described,
    "citation": _described,
    "raw_ignored": _ignored,
    "layouts": _layouts,
    "patient_rule": parse_patient_rule,
    "split": parse_split,
    "protocol": _protocol,
    "notes": _optional_text,
}
