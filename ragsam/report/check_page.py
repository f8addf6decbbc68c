"""check.html: what a data set is like and what is wrong with it, for people who look rather than read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Datalist
from ragsam.files import write_text_atomic
from ragsam.report.check_pictures import findings
from ragsam.report.check_plots import annotation_plot, axis_plot, intensity_plot, organ_plot
from ragsam.report.html import render
from ragsam.report.views import ORIENTATION_NOTE


def write_check_page(
    summary: Mapping[str, Any], path: str | os.PathLike[str], *, card: Card, datalist: Datalist
) -> None:
    """Write the page of a data check, whole or not at all; the same input gives the same bytes.

    The summary is that of `ragsam.data.checks.survey.survey`; the datalist has the files of what stands out.

    Raises:
        InputError: where the file cannot be written.
    """
    cases = {case.case: case for part in datalist.sections.values() for case in part}
    measured = [case for case in summary["cases"] if case["shape"]]
    content = {
        "summary": summary,
        "card": card,
        "measured": measured,
        "findings": findings(summary, cases, card),
        "orientation_note": ORIENTATION_NOTE,
        "plots": {
            "spacing": axis_plot(measured, "spacing_mm", "spacing (mm)"),
            "size": axis_plot(measured, "shape", "voxels"),
            "intensity": intensity_plot(measured, card.window),
            "organs": organ_plot(summary, card),
            "annotation": annotation_plot(summary, card),
        },
    }
    write_text_atomic(path, render("check.html", content))
