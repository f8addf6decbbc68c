"""Cases that are given in Python, as the datalist that the jobs take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    write_datalist(path, str(run.card_path), {section: [_case(case) for case in cases]})
    return path


def _case(case: Case | Mapping[str, Any]) -> Case:
    if isinstance(case, Case):
        return case
    paths = {name: Path(case[name]).absolute() for name in ("image", "label")}
    return Case(**{**case, **paths})
