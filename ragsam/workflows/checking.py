"""The job behind `ragsam check`: look at every case, show how far it is, write the summary and the page."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ragsam.data.cards import load_card
from ragsam.data.datalist import read_datalist
from ragsam.data.survey import survey
from ragsam.data.workers import cores
from ragsam.errors import InputError
from ragsam.files import write_json_atomic

logger = logging.getLogger(__name__)

PAGE_NAME = "check.html"
_LINE_EVERY_S = 10.0


def check_data(
    datalist: str | os.PathLike[str],
    *,
    card: str | None = None,
    output: str | os.PathLike[str] | None = None,
    summary_path: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Check every case of a datalist and return the summary; faults are in it, not raised.

    Args:
        datalist: path of the datalist.
        card: name or file of the card to check against; None takes the datalist's.
        output: folder for the page; None writes none.
        summary_path: JSON file for the summary; None writes none.
        jobs: processes; None takes a process a core.

    Raises:
        InputError: a datalist or card that cannot be read at all, or a file that cannot be written.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: no such number of processes; take 1 or more")
    data, faults = read_datalist(datalist)
    known = load_card(card or data.card)
    progress = CaseProgress("check", sum(len(part) for part in data.sections.values()))
    try:
        summary = survey(data, known, faults=faults, jobs=jobs or cores(), done=progress)
    finally:
        progress.close()
    if summary_path is not None:
        write_json_atomic(summary_path, summary)
    if output is not None:
        from ragsam.report.check_page import write_check_page

        write_check_page(summary, Path(output) / PAGE_NAME, card=known, datalist=data)
    return summary


class CaseProgress:
    """Shows how many cases are done: a bar on a terminal, elsewhere a plain line now and then.

    Args:
        name: what is done.
        total: number of cases.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self._start = self._told = time.monotonic()
        self._bar = tqdm(total=total, desc=name, unit="case") if sys.stderr.isatty() else None

    def __call__(self, done: int) -> None:
        """Show that `done` cases are done."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif done == self.total or now - self._told > _LINE_EVERY_S:
            self._told = now
            logger.info("%s: case %d of %d, %.0f s passed", self.name, done, self.total, now - self._start)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
