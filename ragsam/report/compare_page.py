"""compare.html: runs against the first one, for people who look rather than read; one file, no script, no network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ragsam.evaluation.compare_runs import compare_runs
from ragsam.files import write_json_atomic, write_text_atomic
from ragsam.outputs import Outputs
from ragsam.report import compare_plots as plots
from ragsam.report import formatting as text
from ragsam.report.compare_tables import comparison_markdown, most_different
from ragsam.report.html import render

ALPHA = 0.05
COMPARISON_FILES = ("compare.json", "compare.md", "compare.html")


def write_comparison(
    runs: Mapping[str, Mapping[str, Any]],
    folder: Path,
    *,
    reads: Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write compare.json, compare.md and compare.html, each whole or not at all; the same input gives the same bytes.

    Runs, result and errors are those of `compare_runs`; a file that cannot be written is an InputError too.

    Args:
        reads: the files that the runs were read from, see `Outputs`, as `overwrite`.
    """
    with Outputs(folder, COMPARISON_FILES, reads=reads, overwrite=overwrite):
        return _write(compare_runs(runs), runs, folder)


def _write(comparison: dict[str, Any], runs: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    write_json_atomic(folder / "compare.json", comparison)
    write_text_atomic(folder / "compare.md", comparison_markdown(comparison))
    metrics = comparison["metrics"]
    shown = []
    for place, (name, run) in enumerate(comparison["runs"].items()):
        shown.append({"name": name, "colour": plots.run_colour(place), **run})
    content = {
        "comparison": comparison,
        "runs": shown,
        "sections": [_section(entry, metrics, comparison["baseline"]) for entry in comparison["comparisons"]],
        "spreads": {metric: plots.spread_plot(runs, metric) for metric in metrics},
        "differences": {metric: plots.difference_plot(comparison["comparisons"], metric) for metric in metrics},
        "case_plot": plots.case_plot(comparison["comparisons"]),
        "titles": text.TITLES,
        "max_cases": plots.MAX_CASES,
    }
    write_text_atomic(folder / "compare.html", render("compare.html", content))
    return comparison


def claim(paired: Mapping[str, Any], metric: str) -> str:
    """Return "better" or "worse" where the corrected p is below 0.05, else "unclear"."""
    if paired["p_holm"] is None or paired["p_holm"] >= ALPHA:
        return "unclear"
    return text.direction(paired["mean_difference"], metric)


def _section(entry: Mapping[str, Any], metrics: list[str], baseline: str) -> dict[str, Any]:
    """Return what the page shows of one run against the first: findings, rows by organ, cases, plots."""
    organs = sorted(entry["organs"].items(), key=lambda item: -abs(item[1]["dice"]["mean_difference"] or 0.0))
    rows = []
    for organ, paired in [("mean of organs", entry["mean"]), *organs]:
        claims = {metric: claim(paired[metric], metric) for metric in metrics}
        rows.append({"organ": organ, "paired": paired, "claims": claims})
    return {
        "entry": entry,
        "findings": [_finding(entry["mean"][metric], metric, entry["run"], baseline) for metric in metrics],
        "rows": rows,
        "cases": [{**case, "most": most_different(case)} for case in entry["cases"]],
        "outcomes": plots.outcome_plot(entry, "dice"),
        "map": plots.case_organ_plot(entry),
    }


def _finding(paired: Mapping[str, Any], metric: str, run: str, baseline: str) -> tuple[str, str, str]:
    """Return a claim, the sentence that makes it, and the numbers behind it."""
    made = claim(paired, metric)
    words = {"better": f"{run} is better", "worse": f"{run} is worse", "unclear": "no clear difference"}
    numbers = "nothing to compare"
    if paired["mean_difference"] is not None:
        numbers = (
            f"{run} minus {baseline}: {text.number(paired['mean_difference'], metric, sign='+')}, 95 % interval "
            f"{text.interval(paired['ci95'], metric, signed=True)}, p {text.probability(paired['p_holm'])}; of "
            f"{paired['n']} patients {paired['wins']} better, {paired['losses']} worse, {paired['ties']} equal."
        )
    return made, f"{text.TITLES[metric]}: {words[made]}.", numbers
