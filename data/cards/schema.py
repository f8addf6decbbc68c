"""A card's yaml, checked strictly: whatever is not exactly right is refused in one line that says what to write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain, filterfalse
from typing import Any

from ragsam.data.cards.checks import are_whole, check_keys, is_number, is_whole, one_of, text, texts
from ragsam.data.cards.model import LAYOUTS, PROTOCOLS, Card, Code, Organ, Pieces
from ragsam.data.cards.patients import parse_patient_rule, parse_split
from ragsam.errors import InputError

_REQUIRED = ("name", "title", "modality", "window", "orientation", "organs", "licence", "source", "citation")
_OPTIONAL = ("left_right", "raw_ignored", "layouts", "patient_rule", "split", "protocol", "notes")
_MODALITIES = ("CT", "MR")
_MAX_ORGANS = 255  # label volumes are uint8
_MAX_RAW = 2**31 - 1
_CODE_LENGTHS = {"scheme": 16, "value": 16, "meaning": 64}  # DICOM PS3.5: SH, SH, LO


def parse_card(content: Any, *, where: str = "card") -> Card:
    """Turn a card's parsed yaml, see `docs/files.md`, into a `Card`; `where` is how errors name it.

    Raises:
        InputError: unknown or missing key, organ values that are not 1..K, duplicate names, a raw value used twice,
            a colour that is not three whole numbers 0-255, a window that does not ascend, and the like.
    """
    check_keys(content, _REQUIRED, _OPTIONAL, where)
    plain = {key: text(content[key], f"{where}: {key}") for key in ("name", "title", "licence", "source", "citation")}
    if "notes" in content:
        plain["notes"] = text(content["notes"], f"{where}: notes")
    layouts = content.get("layouts", [])
    if layouts != []:
        layouts = texts(layouts, f"{where}: layouts")
    one_of(content["modality"], _MODALITIES, f"{where}: modality")
    if content["orientation"] != "RAS":
        raise InputError(f"{where}: orientation is {content['orientation']!r}; volumes are turned to RAS, write RAS")
    organs = _organs(content["organs"], where)
    ignored = content.get("raw_ignored", [])
    if ignored != []:
        ignored = _raw_values(ignored, f"{where}: raw_ignored")
    doubled = _doubled(chain(*(organ.raw_values for organ in organs), ignored))
    if doubled:
        raise InputError(f"{where}: raw value {doubled} is used twice; a value of the label files has one meaning")
    return Card(
        modality=content["modality"],
        organs=organs,
        window=_window(content["window"], where),
        orientation="RAS",
        left_right=_left_right(content.get("left_right"), organs, where),
        patient_rule=parse_patient_rule(content.get("patient_rule"), f"{where}: patient_rule"),
        raw_ignored=tuple(ignored),
        split=parse_split(content.get("split"), f"{where}: split"),
        protocol=one_of(content.get("protocol", "clinical"), PROTOCOLS, f"{where}: protocol"),
        layouts=tuple(one_of(name, LAYOUTS, f"{where}: layouts") for name in layouts),
        **plain,
    )


def _organs(content: Any, where: str) -> tuple[Organ, ...]:
    if not isinstance(content, list) or not content:
        raise InputError(f"{where}: organs must be a list with at least one organ")
    organs = tuple(_organ(entry, f"{where}: organ {index}") for index, entry in enumerate(content, start=1))
    doubled = _doubled([organ.name for organ in organs])
    if doubled:
        raise InputError(f"{where}: organ {doubled} is named twice; names must differ")
    values = [organ.value for organ in organs]
    if values != list(range(1, len(organs) + 1)) or len(organs) > _MAX_ORGANS:
        raise InputError(f"{where}: organ values are {values}; they must be 1 to {len(organs)} in order, at most 255")
    return organs


def _organ(content: Any, where: str) -> Organ:
    check_keys(content, ("name", "value", "colour", "tolerance_mm"), ("raw", "code", "components"), where)
    name = text(content["name"], f"{where}: name")
    value = content["value"]
    if not is_whole(value):
        raise InputError(f"{where}: value of {name} is {value!r}; it must be a whole number")
    colour = content["colour"]
    if not are_whole(colour, 0, 255) or len(colour) != 3:
        raise InputError(f"{where}: colour of {name} is {colour!r}; it must be three whole numbers from 0 to 255")
    tolerance_mm = content["tolerance_mm"]
    if not is_number(tolerance_mm) or tolerance_mm <= 0:
        raise InputError(f"{where}: tolerance_mm of {name} is {tolerance_mm!r}; it must be above 0")
    raw: tuple[int, ...] = ()
    if "raw" in content:
        raw = _raw_values(content["raw"], f"{where}: raw of {name}")
    code = None
    if "code" in content:
        code = _code(content["code"], f"{where}: code of {name}", optional=("modifier",))
    pieces = _pieces(content.get("components"), f"{where}: components of {name}")
    return Organ(name, value, tuple(colour), float(tolerance_mm), raw, code, pieces)


def _pieces(content: Any, where: str) -> Pieces | None:
    if content is None:
        return None
    if is_whole(content) and content > 0:
        return Pieces(most=content)
    if isinstance(content, dict) and list(content) == ["above_ml"]:
        above_ml = content["above_ml"]
        if is_number(above_ml) and above_ml > 0:
            return Pieces(above_ml=float(above_ml))
    raise InputError(f"{where} is {content!r}; it must be a whole number above 0, {{above_ml: 2}} or null")


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
        raise InputError(f"{where}: window is {content!r}; it must be [low, high] or null")
    low, high = map(float, content)
    if low >= high:
        raise InputError(f"{where}: window {content} does not ascend; write the lower end first")
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
        raise InputError(f"{where}: left_right names {told}, which is no organ of the card")
    if len(set(named)) != len(named):
        raise InputError(f"{where}: left_right names an organ twice; an organ has one counterpart")
    return tuple(map(tuple, content))
