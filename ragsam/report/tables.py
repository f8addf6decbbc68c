"""Metrics as files and as rows: metrics.json, metrics.csv, and the summary by organ in Markdown and LaTeX."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ragsam.files import atomic_write, write_json_atomic, write_text_atomic
from ragsam.metrics.protocols import ALL_METRICS, METRICS
from ragsam.metrics.scoring import VOLUMES
from ragsam.report.formatting import TITLES_WITH_UNITS, interval, number, readable
from ragsam.report.markup import latex_table, markdown_table

_COUNTED = ("missed", "false_positive", "absent")
COLUMNS = ("case", "patient", "organ", "status", *ALL_METRICS, *VOLUMES)


def write_metrics_json(metrics: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write metrics.json, whole or not at all; what does not apply is null, never NaN."""
    write_json_atomic(path, metrics)


def write_metrics_csv(metrics: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write one row a case and organ; a cell is empty where the metric does not apply, and `status` says why.

    A protocol's metrics that no other has are columns at the end.
    """
    import pandas as pd

    rows = []
    for case in metrics["cases"]:
        for organ, scores in case["organs"].items():
            rows.append({"case": case["case"], "patient": case["patient"], "organ": organ, **scores})
    columns = list(dict.fromkeys((*COLUMNS, *metrics["metrics"])))
    table = pd.DataFrame(rows, columns=columns)
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def write_summary_tables(metrics: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write metrics.md and metrics.tex: each organ's means with their 95 % intervals, and how often it was missed."""
    write_text_atomic(os.path.join(folder, "metrics.md"), summary_table(metrics, markdown_table))
    write_text_atomic(os.path.join(folder, "metrics.tex"), summary_table(metrics, latex_table))


def summary_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row an organ: its metrics' summaries, and how many cases have which other status than ok."""
    rows = []
    for organ, summaries in metrics["summary"]["organs"].items():
        statuses = [case["organs"][organ]["status"] for case in metrics["cases"]]
        counts = {status: statuses.count(status) for status in (*_COUNTED, "not_annotated")}
        rows.append({"organ": organ, **summaries, **counts})
    return rows


def summary_table(metrics: Mapping[str, Any], written: Callable[..., str]) -> str:
    """Return the summary by organ, written by `markdown_table` or `latex_table`."""
    shown = [metric for metric in dict.fromkeys((*METRICS, *metrics["metrics"])) if metric in metrics["metrics"]]
    summary = metrics["summary"]
    heads = ["organ", *map(TITLES_WITH_UNITS.get, shown), "patients", "missed", "false positive", "absent"]
    rows = []
    for organ, summaries in summary["organs"].items():
        row = _cells(readable(organ), summaries, shown)
        rows.append([*row, *(str(metrics[status][organ]) for status in _COUNTED)])
    total = _cells("mean of organs", summary["mean"], shown)
    total += [str(sum(metrics[status].values())) for status in _COUNTED]
    title = (
        f"Card {metrics['card']}, protocol {metrics['protocol']}: {metrics['n_cases']} cases of "
        f"{metrics['n_patients']} patients. Mean by patient (95 % interval, BCa bootstrap)."
    )
    notes = []
    if metrics["protocol_caveat"]:
        notes.append(metrics["protocol_caveat"])
    if summary["organs_left_out"]:
        left_out = ", ".join(map(readable, summary["organs_left_out"]))
        notes.append(f"In no reference, so left out of the mean: {left_out}.")
    return written(heads, rows, title=title, total=total, notes=notes)


def _cells(name: str, summaries: Mapping[str, Any], shown: list[str]) -> list[str]:
    """Return a row's name, means with their intervals, and number of patients."""
    cells = [name]
    for metric in shown:
        cell = number(summaries[metric]["mean"], metric).partition(" ")[0]  # the head has the unit
        if summaries[metric]["ci95"] is not None:
            cell += f" ({interval(summaries[metric]['ci95'], metric)})"
        cells.append(cell)
    return [*cells, str(summaries["dice"]["n"])]
