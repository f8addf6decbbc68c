"""Cases that are given in Python, as the datalist that the jobs take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.data.cards.model import Card
from ragsam.data.checks.find_numbering import find_numbering
from ragsam.data.datalist import Case, write_datalist
from ragsam.runs.run import RunFolder


def as_datalist(
    cases: str | os.PathLike[str] | Sequence[Case | Mapping[str, Any]], run: RunFolder, section: str, folder: Path
) -> Path:
    """Return the path of a datalist: the one that is given, or one of the given cases, written into a folder.

    Args:
        cases: a datalist; or cases, as such or as {"case", "patient", "image", "label"}, of the run's organs.
        section: what cases are put into.
    """
    if isinstance(cases, str | os.PathLike):
        return Path(cases)
    path = folder / "datalist.json"
    made = [_case(case) for case in cases]
    write_datalist(path, str(run.card_path), {section: made}, label_map=_label_map(cases, made, run.card))
    return path


def _case(case: Case | Mapping[str, Any]) -> Case:
    if isinstance(case, Case):
        return case
    paths = {name: Path(case[name]).absolute() for name in ("image", "label")}
    return Case(**{**case, **paths})


def _label_map(
    given: Sequence[Case | Mapping[str, Any]], cases: Sequence[Case], card: Card
) -> Mapping[int, int] | None:
    """Return the label map that cases given without one need; None leaves them theirs."""
    told = [isinstance(case, Case) or "label_map" in case for case in given]
    if any(told):
        return None
    way_out = "give every case a label_map, None for the card's numbers"
    labels = [case.label for case in cases if case.label is not None]
    found = find_numbering(labels, card, card.label_map, what="labels", way_out=way_out)
    return card.label_map if found == "raw" else None
