"""What a card says of patients: how a case gives its patient, and the split that belongs to the data set."""

from __future__ import annotations

import re
from typing import Any

from ragsam.data.cards.checks import check_keys, is_whole, require_one, text, texts
from ragsam.data.cards.model import PatientRule, Split, SplitPart
from ragsam.errors import InputError


def parse_patient_rule(content: Any, where: str) -> PatientRule | None:
    """Return a card's patient rule, None if it has none; `where` is how errors name it."""
    if content is None:
        return None
    ways = ("pattern", "case_is_patient", "column")
    check_keys(content, ("note",), (*ways, "files_per_patient"), where)
    note = text(content["note"], f"{where}: note")
    require_one(content, ways, where)
    if ("pattern" in content) != ("files_per_patient" in content):
        raise InputError(f"{where}: pattern and files_per_patient belong together; write both or neither")
    if "column" in content:
        return PatientRule(note, column=text(content["column"], f"{where}: column"))
    if "case_is_patient" in content:
        if content["case_is_patient"] is not True:
            raise InputError(f"{where}: case_is_patient is {content['case_is_patient']!r}; write true or leave it out")
        return PatientRule(note, case_is_patient=True)
    pattern = text(content["pattern"], f"{where}: pattern")
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise InputError(f"{where}: pattern {pattern!r} is not a regular expression ({error})") from error
    if groups != 1 or r"(\d+)" not in pattern:
        raise InputError(rf"{where}: pattern {pattern!r} must have one group, the number: (\d+)")
    files = content["files_per_patient"]
    if not is_whole(files) or files < 1:
        raise InputError(f"{where}: files_per_patient is {files!r}; it must be a whole number above 0")
    return PatientRule(note, pattern, files)


def parse_split(content: Any, where: str) -> Split | None:
    """Return a card's split, None if it has none; `where` is how errors name it."""
    if content is None:
        return None
    check_keys(content, ("note",), ("validation", "test"), where)
    note = text(content["note"], f"{where}: note")
    parts = {}
    for section in ("validation", "test"):
        if section in content:
            parts[section] = _part(content[section], f"{where}: {section}")
    return Split(note, **parts)


def _part(content: Any, where: str) -> SplitPart:
    ways = ("count", "cases", "patients", "column")
    check_keys(content, (), (*ways, "values"), where)
    require_one(content, ways, where)
    if ("column" in content) != ("values" in content):
        raise InputError(f"{where}: column and values belong together; write both or neither")
    if "count" in content:
        count = content["count"]
        if not is_whole(count) or count < 0:
            raise InputError(f"{where}: count is {count!r}; it must be a number of patients, 0 or more")
        return SplitPart(count=count)
    if "column" in content:
        column = text(content["column"], f"{where}: column")
        values = texts(content["values"], f"{where}: values")
        return SplitPart(column=column, values=values)
    (way,) = content
    return SplitPart(**{way: texts(content[way], f"{where}: {way}")})
