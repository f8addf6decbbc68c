"""The job behind `ragsam check`: look at every case, show how far it is, write the summary and the page."""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

from ragsam.console.case_progress import CaseProgress
from ragsam.console.library_warnings import told_once
from ragsam.data.cards.load import load_card
from ragsam.data.checks.parallel import cores
from ragsam.data.checks.survey import survey
from ragsam.data.datalist import paths_of, read_datalist
from ragsam.errors import InputError
from ragsam.files import write_json_atomic
from ragsam.outputs import Outputs

PAGE_NAME = "check.html"


@told_once()
def check_data(
    datalist: str | os.PathLike[str],
    *,
    card: str | None = None,
    output: str | os.PathLike[str] | None = None,
    summary_path: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Check every case of a datalist and return the summary; faults are in it, not raised.

    Args:
        datalist: path of the datalist.
        card: name or file of the card to check against; None takes the datalist's.
        output: folder for the page; None writes none.
        summary_path: JSON file for the summary; None writes none.
        jobs: processes; None takes a process a core.
        overwrite: replace outputs that are not the package's own, see `Outputs`.

    Raises:
        InputError: a datalist or card that cannot be read at all, or a file that cannot be written.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: not a number of processes; give 1 or more")
    data, faults = read_datalist(datalist)
    known = load_card(card or data.card)
    reads = [datalist, *paths_of(chain.from_iterable(data.sections.values()))]
    with ExitStack() as outputs:
        for path in filter(None, (summary_path, output and Path(output) / PAGE_NAME)):
            outputs.enter_context(Outputs.of_file(path, reads=reads, overwrite=overwrite))
        with CaseProgress("check", sum(len(part) for part in data.sections.values())) as progress:
            summary = survey(data, known, faults=faults, jobs=jobs or cores(), done=progress)
        if summary_path is not None:
            write_json_atomic(summary_path, summary)
        if output is not None:
            from ragsam.report.check_page import write_check_page

            write_check_page(summary, Path(output) / PAGE_NAME, card=known, datalist=data)
    return summary
