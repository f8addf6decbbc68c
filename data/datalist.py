"""Datalists: which volumes there are, whose they are, and what part they play in a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.files import read_json, write_json_atomic

_SECTIONS = ("training", "validation", "test")
_CASE_KEYS = ("case", "patient", "image", "label", "annotated")


@dataclass(frozen=True)
class Case:
    """One volume: its name, its patient, absolute paths; `annotated` is None where every organ of the card is."""

    case: str
    patient: str
    image: Path
    label: Path | None = None
    annotated: tuple[str, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Datalist:
    """A parsed datalist. `card` is a packaged card's name or the absolute path of a card's yaml file."""

    card: str
    path: Path
    sections: dict[str, tuple[Case, ...]]

    def section(self, name: str) -> tuple[Case, ...]:
        """Return the cases of a section.

        Raises:
            InputError: where the datalist has no such section, or it is empty.
        """
        if not self.sections.get(name):
            having = ", ".join(key for key, cases in self.sections.items() if cases) or "none"
            raise InputError(f"{self.path.name}: no cases under {name!r}; sections with cases: {having}")
        return self.sections[name]


def load_datalist(path: str | os.PathLike[str]) -> Datalist:
    """Read a datalist and make its paths absolute. Files are not opened: see `ragsam.data.validation`.

    Args:
        path: a JSON file `{"card": ..., "training": [{"case", "patient", "image", "label"}, ...], ...}`. Every list of
            objects is a section; other keys are left alone. Paths are relative to the file.

    Raises:
        InputError: missing or invalid JSON; no card; a case without name, patient or image; a case or image named
            twice; a patient in two sections.
    """
    file = Path(path).absolute()
    content = read_json(file)
    if not isinstance(content, Mapping):
        raise InputError(f"{file.name}: {type(content).__name__} found; a datalist is an object with card and sections")
    card = content.get("card")
    if not isinstance(card, str) or not card:
        raise InputError(f'{file.name}: no card; add "card": the name of a dataset card')
    if card.endswith((".yaml", ".yml")):
        card = _absolute(card, file.parent).as_posix()
    sections = {
        name: tuple(_parse_case(entry, f"{file.name}: {name}[{i}]", file.parent) for i, entry in enumerate(part))
        for name, part in content.items()
        if _is_section(name, part, file.name)
    }
    if not sections:
        raise InputError(f"{file.name}: no section; add a list of cases under training, validation or test")
    _check_sections(sections, file.name)
    return Datalist(card=card, path=file, sections=sections)


def write_datalist(path: str | os.PathLike[str], card: str, sections: Mapping[str, Sequence[Case]]) -> None:
    """Write a datalist, whole or not at all, its paths relative to its folder.

    Args:
        path: the JSON file to write.
        card: a card's name, or the path of a card's yaml file.
        sections: cases by section name.

    Raises:
        InputError: the faults that `load_datalist` would refuse, or a file that cannot be written.
    """
    file = Path(path).absolute()
    for name, cases in sections.items():
        for case in cases:
            _check_name(case.case, f"{file.name}: {name}")
            _check_patient(case.patient, case.case)
    _check_sections(sections, file.name)
    card = _relative(Path(card), file.parent) if card.endswith((".yaml", ".yml")) else card
    content = {name: [_case_entry(case, file.parent) for case in cases] for name, cases in sections.items()}
    write_json_atomic(file, {"card": card, **content})


def _is_section(name: str, part: Any, where: str) -> bool:
    if name in _SECTIONS:
        if not isinstance(part, list):
            raise InputError(f"{where}: {name} is a {type(part).__name__}; it must be a list of cases")
        return True
    return isinstance(part, list) and bool(part) and all(isinstance(entry, Mapping) for entry in part)


def _parse_case(entry: Any, where: str, folder: Path) -> Case:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: {entry!r} is no case; a case is an object with case, patient, image and label")
    name = entry.get("case")
    _check_name(name, where)
    _check_patient(entry.get("patient"), name)
    paths = {}
    for key in ("image", "label"):
        value = entry.get(key)
        if value is None and key == "label":
            paths[key] = None
        elif isinstance(value, str) and value and "\0" not in value:
            paths[key] = _absolute(value, folder)
        else:
            raise InputError(f"{name}: {key} is {value!r}; it must be a path relative to the datalist")
    annotated = entry.get("annotated")
    if annotated is not None:
        if not isinstance(annotated, list) or not all(isinstance(organ, str) and organ for organ in annotated):
            raise InputError(f"{name}: annotated is {annotated!r}; it must be a list of organ names, or be left out")
        annotated = tuple(annotated)
    extra = {key: value for key, value in entry.items() if key not in _CASE_KEYS}
    return Case(name, entry["patient"], paths["image"], paths["label"], annotated, extra)


def _check_name(name: Any, where: str) -> None:
    """Outputs are named after the case, so its name must be a file name and nothing more."""
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: case is {name!r}; give each case a name")
    if name.startswith(".") or any(letter in "/\\:" or not letter.isprintable() for letter in name):
        raise InputError(f"{where}: case name {name!r} is no safe file name; leave out / \\ : and a leading dot")
    if len(name.encode("utf-8", "replace")) > 200:
        raise InputError(f"{where}: case name {name[:20]!r}... is over 200 bytes long; shorten it")


def _check_patient(patient: Any, name: str) -> None:
    if not isinstance(patient, str) or not patient.strip():
        raise InputError(f"{name}: patient is {patient!r}; give each case its patient as a text, splits go by patient")


def _check_sections(sections: Mapping[str, Sequence[Case]], where: str) -> None:
    names: set[str] = set()
    image_of: dict[Path, str] = {}
    home_of: dict[str, tuple[str, str]] = {}
    for section, cases in sections.items():
        for case in cases:
            # Without regard to case: some file systems would let the second output overwrite the first.
            if case.case.casefold() in names:
                raise InputError(f"{case.case}: named twice in {where}, again in {section}; rename or remove it")
            names.add(case.case.casefold())
            if case.image in image_of:
                raise InputError(f"{case.case}: same image as {image_of[case.image]} in {where}; remove one of them")
            image_of[case.image] = case.case
            home, other = home_of.setdefault(case.patient, (section, case.case))
            if home != section:
                raise InputError(
                    f"{case.case}: in {section}, but {other} of the same patient is in {home} of {where}; "
                    "keep all of a patient's cases in one section"
                )


def _absolute(path: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / path))


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder)).as_posix()


def _case_entry(case: Case, folder: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"case": case.case, "patient": case.patient, "image": _relative(case.image, folder)}
    if case.label is not None:
        entry["label"] = _relative(case.label, folder)
    if case.annotated is not None:
        entry["annotated"] = list(case.annotated)
    return {**entry, **{key: value for key, value in case.extra.items() if key not in _CASE_KEYS}}
