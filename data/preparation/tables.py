"""Tables beside the volumes: who the patient of a case is, and a manifest that says which organs it annotates."""

from __future__ import annotations

import fnmatch
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import filterfalse
from pathlib import Path

from ragsam.data.cards.model import Card
from ragsam.data.preparation.csv_table import read_table
from ragsam.errors import InputError

MANIFEST = "manifest.csv"
SUBJECTS = "subjects.csv"
_VOLUME = "_ml"

Rows = Mapping[str, Mapping[str, str]]  # by case, then by column


def patients_of(
    cases: Sequence[str], card: Card, source: Path, *, table: Path | None = None, rows: Rows | None = None
) -> dict[str, str]:
    """Return the patient of every case: by the table given, `subjects.csv` in `source`, or the card's patient rule.

    A patient is never taken from a file's header, where it may be a person's name.

    Args:
        table: CSV with the columns `case,patient` (or `case,inferred_subject`).
        rows: the data set's manifest, where it has one.

    Raises:
        InputError: no table and no rule, or a case whose patient they do not tell.
    """
    rule = card.patient_rule
    if table is None and (source / SUBJECTS).is_file():
        table = source / SUBJECTS
    if table is not None:
        known = _read_patients(table)
        where = table.name
    elif rule is None:
        own = "patient_rule: {note: every case is a different patient, case_is_patient: true}"
        raise InputError(
            f"{source.name}: no patient key; give a table with --patients FILE.csv (columns case,patient), or, if "
            f"every case is a different patient, add to the card: {own}"
        )
    elif rule.column is not None:
        known = column_of(rows, rule.column, f"card {card.name}: patients")
        where = MANIFEST
    else:
        known = dict(zip(cases, map(rule.patient, cases), strict=True))
        where = f"the patient rule of card {card.name} ({rule.pattern})"
    missing = list(filterfalse(known.get, cases))
    if missing:
        told = first_of(missing)
        raise InputError(f"{told}: no patient in {where}; give a complete table with --patients FILE.csv")
    return {case: known[case] for case in cases}


def first_of(names: Sequence[str]) -> str:
    """Return the first of some names and, in brackets, how many more there are."""
    if len(names) == 1:
        return names[0]
    return f"{names[0]} (and {len(names) - 1} more)"


def read_manifest(source: Path) -> Rows:
    """Return the rows of `manifest.csv` by case; raises InputError for none, or a case without name or named twice."""
    columns, lines = read_table(source / MANIFEST)
    if "case" not in columns:
        raise InputError(f"{MANIFEST}: no column case; name it in the first line")
    rows: dict[str, Mapping[str, str]] = {}
    for line in lines:
        case = line["case"]
        if not case:
            raise InputError(f"{MANIFEST}: a line without case; keep one line for each case")
        if case in rows:
            raise InputError(f"{MANIFEST}: {case} is named twice; keep one line for each case")
        rows[case] = line
    return rows


def is_manifest(source: Path) -> bool:
    """Return whether a folder has a manifest that gives organs' volumes by case."""
    if not (source / MANIFEST).is_file():
        return False
    columns, _ = read_table(source / MANIFEST)
    return "case" in columns and bool(fnmatch.filter(columns, f"*{_VOLUME}"))


def annotated_organs(case: str, row: Mapping[str, str], card: Card) -> tuple[str, ...] | None:
    """Return the organs that a case annotates: those of more than 0 ml in the manifest; None for all of the card.

    An organ's column is its name and `_ml`, in any spelling (`SpinalCord_ml`); other columns are left alone.

    Raises:
        InputError: an organ of the card without a column, or a cell that is no volume.
    """
    found = []
    for organ in card.labels:
        column = organ + _VOLUME
        text = _volume_cell(row, organ, card)
        try:
            volume_ml = float(text)
        except ValueError:
            volume_ml = math.nan
        if not 0 <= volume_ml < math.inf:
            raise InputError(
                f"{case}: {column} is {text!r}; it must be a volume in millilitres, 0 where it is not annotated"
            )
        if volume_ml > 0:
            found.append(organ)
    if len(found) == card.num_classes:
        return None
    return tuple(found)


def column_of(rows: Rows | None, column: str, what: str) -> dict[str, str]:
    """Return a manifest's column by case; raises InputError where it has none, or was not read."""
    try:
        cells = {case: row[column] for case, row in (rows or {}).items()}
    except KeyError:
        cells = {}
    if not cells:
        raise InputError(f"{what} come from column {column} of {MANIFEST}, which is missing; add it")
    return cells


def _volume_cell(row: Mapping[str, str], organ: str, card: Card) -> str:
    """Return the cell of an organ's column; raises InputError where it has none, or which it is stays open."""
    column = organ + _VOLUME
    if column in row:
        return row[column]
    alike = [other for other in fnmatch.filter(row, f"*{_VOLUME}") if _plain(other) == _plain(column)]
    if not alike:
        raise InputError(f"{MANIFEST}: no column {column}; add it, 0 where the organ is not annotated")
    if len(alike) > 1 or [_plain(name) for name in card.labels].count(_plain(organ)) > 1:
        raise InputError(f"{MANIFEST}: which column is {column} stays open; spell each column as its organ")
    return row[alike[0]]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFC", name).casefold())


def _read_patients(path: Path) -> dict[str, str]:
    columns, rows = read_table(path)
    column = "patient" if "patient" in columns else "inferred_subject"
    if not {"case", column} <= set(columns):
        raise InputError(f"{path.name}: columns case and patient not found; name them in the first line")
    known: dict[str, str] = {}
    for row in rows:
        case = row["case"]
        patient = row[column]
        if not case or not patient:
            raise InputError(f"{path.name}: a line without case or patient ({case or 'no case'}); complete it")
        if known.setdefault(case, patient) != patient:
            raise InputError(f"{case}: two patients in {path.name}; keep one line for each case")
    return known
