"""Datalists: which volumes there are, whose they are, and what part they play in a run."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ragsam.data.cards.load import load_card
from ragsam.data.cards.model import Card
from ragsam.errors import InputError
from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json

logger = logging.getLogger(__name__)

_SECTIONS = ("training", "validation", "test")
_LONGEST_NAME_BYTES = 200
_CASE_KEYS = ("case", "patient", "image", "label", "annotated")


@dataclass(frozen=True)
class Case:
    """One volume: its name, its patient, absolute paths.

    `annotated` is None if every organ of the card is. `label_map` leads from the label file's values to the
    card's; None: they are the same, and 0 is background always. A value that it does not name is a fault.
    `fill_nonfinite` is what NaN and infinite voxels of the image are read as; None refuses them.

    Examples:
        >>> case = Case("ct007", "patient3", Path("ct007.nii.gz"), annotated=("liver",))
        >>> case.patient, case.label
        ('patient3', None)
    """

    case: str
    patient: str
    image: Path
    label: Path | None = None
    annotated: tuple[str, ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    label_map: Mapping[int, int] | None = field(default=None, hash=False)
    fill_nonfinite: float | None = None


@dataclass(frozen=True)
class Datalist:
    """A parsed datalist. `card` is a packaged card's name or the absolute path of a card's yaml file."""

    card: str
    path: Path
    sections: dict[str, tuple[Case, ...]]

    @property
    def label_map(self) -> Mapping[int, int] | None:
        """The values of its label files to the card's; None if they are the same."""
        return next((case.label_map for case in chain.from_iterable(self.sections.values())), None)

    def section(self, name: str) -> tuple[Case, ...]:
        """Return the cases of a section; raises InputError if there is not one of that name, or it is empty."""
        cases = self.sections.get(name, ())
        if not cases:
            filled = filter(self.sections.get, self.sections)
            having = ", ".join(filled) or "none"
            raise InputError(f"{self.path.name}: no cases under {name!r}; sections with cases: {having}")
        return cases


def load_datalist(path: str | os.PathLike[str], card: Card | None = None) -> Datalist:
    """Read a datalist and make its paths absolute. Files are not opened: see `ragsam.data.checks.check_case`.

    Args:
        path: a JSON file `{"card": ..., "training": [{"case", "patient", "image", "label"}, ...], ...}`. Every list of
            objects is a section; `label_map` and `fill_nonfinite` go to every case. Paths are relative to the file.
        card: whose labels its own card must have, which is warned of where its images differ; None takes any.

    Raises:
        InputError: missing or invalid JSON; no card, or one of other labels; an invalid label map; a case without
            name, patient or image; a case or image named twice; a patient in two sections.
    """
    datalist, faults = read_datalist(path)
    if faults:
        raise InputError(faults[0])
    if card is not None:
        _require_card(datalist, card)
    return datalist


def _require_card(datalist: Datalist, card: Card) -> None:
    """Refuse a datalist of other labels; warn where its card has another kind of images, or cannot be read."""
    where = datalist.path.name
    try:
        theirs = load_card(datalist.card)
    except InputError as error:
        logger.warning("%s: whether it belongs to card %s is unknown: %s", where, card.name, error)
        return
    if theirs.labels != card.labels:
        other = f"of card {theirs.name}, which has other labels than card {card.name}"
        raise InputError(f"{where}: {other}; choose data of its card, or name the images")
    if (theirs.modality, theirs.window) != (card.modality, card.window):
        kinds = [f"{one.modality}, window {one.window and list(one.window)}" for one in (theirs, card)]
        told = "%s: warning: of card %s (%s), but read as of card %s (%s); are the images alike?"
        logger.warning(told, where, theirs.name, kinds[0], card.name, kinds[1])


def read_datalist(path: str | os.PathLike[str]) -> tuple[Datalist, list[str]]:
    """Read a datalist as `load_datalist` does, leaving out cases at fault; return it and the faults, a line each.

    Raises:
        InputError: missing or invalid JSON, no card, no section, or an invalid shared value.
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
    shared = {"label_map": _parse_label_map(content.get("label_map"), file.name)}
    fill = content.get("fill_nonfinite")
    if fill is not None:
        if type(fill) not in (int, float) or not math.isfinite(fill):
            raise InputError(
                f"{file.name}: fill_nonfinite is {fill!r}; it must be a number, such as -1024 for air in CT"
            )
        shared["fill_nonfinite"] = float(fill)
    sections: dict[str, tuple[Case, ...]] = {}
    faults: list[str] = []
    for name, part in content.items():
        if not _is_section(name, part, file.name):
            continue
        cases = []
        for i, entry in enumerate(part):
            try:
                case = _parse_case(entry, f"{file.name}: {name}[{i}]", file.parent, shared)
            except InputError as error:
                faults.append(str(error))
            else:
                cases.append(case)
        sections[name] = tuple(cases)
    if not sections:
        raise InputError(f"{file.name}: no section; add a list of cases under training, validation or test")
    faults += _section_faults(sections, file.name)
    return Datalist(card=card, path=file, sections=sections), faults


def paths_of(cases: Iterable[Case]) -> list[Path]:
    """Return the images and labels of cases."""
    return [path for case in cases for path in (case.image, case.label) if path is not None]


def write_datalist(
    path: str | os.PathLike[str],
    card: str,
    sections: Mapping[str, Sequence[Case]],
    *,
    label_map: Mapping[int, int] | None = None,
) -> None:
    """Write a datalist, whole or not at all, its paths relative to its folder.

    Args:
        card: a card's name, or the path of a card's yaml file.
        label_map: values of the label files to the card's; None: that of the cases.

    Raises:
        InputError: cases with different label maps, or the faults that `load_datalist` would refuse.
    """
    file = Path(path).absolute()
    for name, cases in sections.items():
        for case in cases:
            _check_names(case.case, case.patient, f"{file.name}: {name}")
    faults = _section_faults(sections, file.name)
    if faults:
        raise InputError(faults[0])
    if card.endswith((".yaml", ".yml")):
        card = _relative(Path(card), file.parent)
    content: dict[str, Any] = {"card": card}
    if label_map is None:
        label_map = _common(sections, "label_map", file.name)
    if label_map is not None:
        content["label_map"] = {str(raw): value for raw, value in label_map.items()}
        _parse_label_map(content["label_map"], file.name)
    fill = _common(sections, "fill_nonfinite", file.name)
    if fill is not None:
        content["fill_nonfinite"] = fill
    for name, cases in sections.items():
        content[name] = [_case_entry(case, file.parent) for case in cases]
    write_json_atomic(file, content)


def _is_section(name: str, part: Any, where: str) -> bool:
    if name not in _SECTIONS:
        return isinstance(part, list) and set(map(type, part)) == {dict}
    if not isinstance(part, list):
        raise InputError(f"{where}: {name} is a {type(part).__name__}; it must be a list of cases")
    return True


def _parse_label_map(content: Any, where: str) -> dict[int, int] | None:
    if content is None:
        return None
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: label_map is {content!r}; it must map file values to the card's")
    label_map = {}
    for raw, value in content.items():
        known = type(value) is int and value in range(256)
        if not known or not re.fullmatch("-?[1-9][0-9]{0,9}", raw):
            raise InputError(
                f"{where}: label_map has {raw!r}: {value!r}; write a whole number other than 0 in quotes, and the "
                "card's value, 0 to 255"
            )
        label_map[int(raw)] = value
    return label_map


def _common(sections: Mapping[str, Sequence[Case]], key: str, where: str) -> Any:
    """Return what all cases share, as the datalist has it once."""
    cases = list(chain.from_iterable(sections.values()))
    if not cases:
        return None
    values = [getattr(case, key) for case in cases]
    shared = values[0]
    if values.count(shared) < len(values):
        raise InputError(f"{where}: cases differ in {key}; write a datalist for each")
    return shared


def _parse_case(entry: Any, where: str, folder: Path, shared: Mapping[str, Any]) -> Case:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: {entry!r} is not a case; a case is an object with case, patient, image and label")
    name = entry.get("case")
    patient = entry.get("patient")
    _check_names(name, patient, where)
    paths = {"label": None}
    for key in ("image", "label"):
        value = entry.get(key)
        if value is None and key == "label":
            continue
        if not isinstance(value, str) or value == "" or "\0" in value:
            raise InputError(f"{name}: {key} is {value!r}; it must be a path relative to the datalist")
        paths[key] = _absolute(value, folder)
    annotated = entry.get("annotated")
    if annotated is not None:
        if not isinstance(annotated, list) or set(map(type, annotated)) - {str} or "" in annotated:
            raise InputError(f"{name}: annotated is {annotated!r}; it must be a list of organ names, or be left out")
        annotated = tuple(annotated)
    extra = {key: value for key, value in entry.items() if key not in _CASE_KEYS}
    return Case(name, patient, annotated=annotated, extra=extra, **paths, **shared)


def _check_names(case: Any, patient: Any, where: str) -> None:
    """Outputs are named after the case, so its name must be a file name and nothing more."""
    if not isinstance(case, str) or not case.strip():
        raise InputError(f"{where}: case is {case!r}; give each case a name")
    if re.search(r"^\.|[/\\:]", case) or not case.isprintable():
        raise InputError(f"{where}: case name {case!r} is not a safe file name; leave out / \\ : and a leading dot")
    if len(case.encode("utf-8", "replace")) > _LONGEST_NAME_BYTES:
        raise InputError(f"{where}: case name {case[:20]!r}... is over 200 bytes long; shorten it")
    if not isinstance(patient, str) or not patient.strip():
        raise InputError(f"{case}: patient is {patient!r}; give each case its patient as a text, splits go by patient")


def _section_faults(sections: Mapping[str, Sequence[Case]], where: str) -> list[str]:
    """Return what is wrong with the cases taken together: names, images and patients that stand twice."""
    faults: list[str] = []
    names: set[str] = set()
    image_of: dict[Path, str] = {}
    home_of: dict[str, tuple[str, str]] = {}
    for section, cases in sections.items():
        for case in cases:
            # Without regard to case: some file systems would let the second output overwrite the first.
            if case.case.casefold() in names:
                faults.append(f"{case.case}: named twice in {where}, again in {section}; rename or remove it")
            names.add(case.case.casefold())
            if case.image in image_of:
                faults.append(f"{case.case}: same image as {image_of[case.image]} in {where}; remove one of them")
            image_of[case.image] = case.case
            home, other = home_of.setdefault(case.patient, (section, case.case))
            if home != section:
                faults.append(
                    f"{case.case}: in {section}, but {other} of the same patient is in {home} of {where}; "
                    "keep all of a patient's cases in one section"
                )
    return faults


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
