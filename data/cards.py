"""Dataset cards: the one place where a data set's label names, numbers and colours, window and licence live."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ragsam.errors import InputError

_REQUIRED = ("name", "title", "modality", "window", "orientation", "organs", "licence", "source", "citation")
_OPTIONAL = ("left_right", "patient_rule")
_ORGAN_KEYS = ("name", "value", "colour", "tolerance_mm")
_RULE_KEYS = ("pattern", "files_per_patient", "note")
_MODALITIES = ("CT", "MR")
_MAX_ORGANS = 255  # label volumes are uint8


@dataclass(frozen=True)
class Organ:
    """One label: its name, its number in label volumes, its colour (RGB, 0-255) and its NSD tolerance in mm."""

    name: str
    value: int
    colour: tuple[int, int, int]
    tolerance_mm: float


@dataclass(frozen=True)
class PatientRule:
    """How a case name tells its patient where no table does: `files_per_patient` files numbered in a row are one."""

    pattern: str
    files_per_patient: int
    note: str

    def patient(self, case: str) -> str | None:
        """Return the patient of a case name (two files each: 3 and 4 are `subj_002`), None where it does not match."""
        match = re.fullmatch(self.pattern, case)
        if match is None:
            return None
        number = int(match.group(1))
        return f"subj_{(number + self.files_per_patient - 1) // self.files_per_patient:03d}"


@dataclass(frozen=True)
class Card:
    """A data set as the package sees it.

    `window` is in Hounsfield units, or None where intensities have no scale of their own (MR) and every volume is
    scaled by its own percentiles. `left_right` pairs organs that change places when a volume is mirrored.
    """

    name: str
    title: str
    modality: str
    organs: tuple[Organ, ...]
    window: tuple[float, float] | None
    orientation: str
    left_right: tuple[tuple[str, str], ...]
    licence: str
    source: str
    citation: str
    patient_rule: PatientRule | None = None

    @property
    def labels(self) -> dict[str, int]:
        """Organ names to label values, without the background."""
        return {organ.name: organ.value for organ in self.organs}

    @property
    def num_classes(self) -> int:
        """Number of organs, without the background."""
        return len(self.organs)


def list_cards() -> list[str]:
    """Return the names of the packaged cards, sorted."""
    folder = resources.files(__package__) / "cards"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def card_text(name_or_path: str | Path) -> str:
    """Return the yaml text of a packaged card or of a card file, unparsed; see `load_card`.

    Raises:
        InputError: unknown name, or a file that cannot be read.
    """
    text_name = str(name_or_path)
    if text_name.endswith((".yaml", ".yml")):
        try:
            return Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{text_name}: card cannot be read ({reason}); check the path") from error
    if text_name in list_cards():
        return (resources.files(__package__) / "cards" / f"{text_name}.yaml").read_text(encoding="utf-8")
    known = ", ".join(list_cards())
    raise InputError(f"{text_name!r}: no such card; take one of {known}, or the path of a card's .yaml file")


def load_card(name_or_path: str | Path) -> Card:
    """Load a packaged card by its name, or a card of one's own by the path of its yaml file.

    Args:
        name_or_path: `btcv`, or a path that ends in `.yaml` or `.yml`.

    Raises:
        InputError: unknown name, missing file, not yaml, or a card that breaks the rules of `parse_card`.
    """
    text_name, text = str(name_or_path), card_text(name_or_path)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"card {text_name}: not valid yaml ({reason}); mend the file") from error
    return parse_card(content, where=f"card {text_name}")


def parse_card(content: Any, *, where: str = "card") -> Card:
    """Turn a card's parsed yaml into a `Card`, refusing whatever is not exactly right.

    Args:
        content: mapping with the keys of a card, see `data/cards/*.yaml`.
        where: how error messages name the card.

    Raises:
        InputError: unknown or missing key, organ values that are not 1..K, duplicate names, a colour that is not
            three whole numbers 0-255, a window that does not ascend, `left_right` naming an unknown organ.
    """
    _check_keys(content, _REQUIRED, _OPTIONAL, where)
    texts = {key: _text(content[key], f"{where}: {key}") for key in ("name", "title", "licence", "source", "citation")}
    if content["modality"] not in _MODALITIES:
        raise InputError(f"{where}: modality is {content['modality']!r}; it must be one of {', '.join(_MODALITIES)}")
    if content["orientation"] != "RAS":
        raise InputError(f"{where}: orientation is {content['orientation']!r}; volumes are turned to RAS, write RAS")
    organs = _organs(content["organs"], where)
    return Card(
        modality=content["modality"],
        organs=organs,
        window=_window(content["window"], where),
        orientation="RAS",
        left_right=_pairs(content.get("left_right"), {organ.name for organ in organs}, where),
        patient_rule=_rule(content.get("patient_rule"), where),
        **texts,
    )


def _check_keys(content: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> None:
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: {type(content).__name__} found; it must be a mapping of {', '.join(required)}")
    if missing := [key for key in required if key not in content]:
        raise InputError(f"{where}: missing {', '.join(missing)}; add it")
    if unknown := [str(key) for key in content if key not in (*required, *optional)]:
        raise InputError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join((*required, *optional))}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} is {value!r}; it must be a text that is not empty")
    return value.strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _organs(content: Any, where: str) -> tuple[Organ, ...]:
    if not isinstance(content, list) or not content:
        raise InputError(f"{where}: organs must be a list with at least one organ")
    organs = tuple(_organ(entry, f"{where}: organ {index}") for index, entry in enumerate(content, start=1))
    names = [organ.name for organ in organs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where}: organ {', '.join(doubled)} is named twice; names must differ")
    values = [organ.value for organ in organs]
    if values != list(range(1, len(organs) + 1)) or len(organs) > _MAX_ORGANS:
        raise InputError(f"{where}: organ values are {values}; they must be 1 to {len(organs)} in order, at most 255")
    return organs


def _organ(content: Any, where: str) -> Organ:
    _check_keys(content, _ORGAN_KEYS, (), where)
    name, colour = _text(content["name"], f"{where}: name"), content["colour"]
    if not _is_whole(content["value"]):
        raise InputError(f"{where}: value of {name} is {content['value']!r}; it must be a whole number")
    sound = isinstance(colour, list) and len(colour) == 3 and all(_is_whole(part) for part in colour)
    if not sound or not all(0 <= part <= 255 for part in colour):
        raise InputError(f"{where}: colour of {name} is {colour!r}; it must be three whole numbers from 0 to 255")
    if not _is_number(content["tolerance_mm"]) or content["tolerance_mm"] <= 0:
        raise InputError(f"{where}: tolerance_mm of {name} is {content['tolerance_mm']!r}; it must be above 0")
    return Organ(name, content["value"], tuple(colour), float(content["tolerance_mm"]))


def _window(content: Any, where: str) -> tuple[float, float] | None:
    if content is None:
        return None
    if not isinstance(content, list) or len(content) != 2 or not all(_is_number(part) for part in content):
        raise InputError(f"{where}: window is {content!r}; it must be [low, high] or null")
    if content[0] >= content[1]:
        raise InputError(f"{where}: window {content} does not ascend; write the lower end first")
    return float(content[0]), float(content[1])


def _pairs(content: Any, names: set[str], where: str) -> tuple[tuple[str, str], ...]:
    pairs = [] if content is None else content
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise InputError(f"{where}: left_right is {content!r}; it must be a list of pairs of organ names")
    named = [name for pair in pairs for name in pair]
    if unknown := [str(name) for name in named if name not in names]:
        raise InputError(f"{where}: left_right names {', '.join(unknown)}, which is no organ of the card")
    if len(set(named)) != len(named):
        raise InputError(f"{where}: left_right names an organ twice; an organ has one counterpart")
    return tuple((left, right) for left, right in pairs)


def _rule(content: Any, where: str) -> PatientRule | None:
    if content is None:
        return None
    where = f"{where}: patient_rule"
    _check_keys(content, _RULE_KEYS, (), where)
    pattern, count = _text(content["pattern"], f"{where}: pattern"), content["files_per_patient"]
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise InputError(f"{where}: pattern {pattern!r} is no regular expression ({error})") from error
    if groups != 1 or r"(\d+)" not in pattern:
        raise InputError(rf"{where}: pattern {pattern!r} must have one group, the number: (\d+)")
    if not _is_whole(count) or count < 1:
        raise InputError(f"{where}: files_per_patient is {count!r}; it must be a whole number above 0")
    return PatientRule(pattern, count, _text(content["note"], f"{where}: note"))
