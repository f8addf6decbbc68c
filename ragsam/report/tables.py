"""Metrics as files and as rows: metrics.json, metrics.csv, and the summary by organ in Markdown and LaTeX."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ragsam.files import atomic_write, write_json_atomic, write_text_atomic
from ragsam.metrics.protocols import ALL_METRICS, METRICS
from ragsam.metrics.scoring import VOLUMES
from ragsam.report.formatting import NOTHING, TITLES, interval, readable
from ragsam.report.markup import latex_table, markdown_table

COLUMNS = ("case", "patient", "organ", "status", *ALL_METRICS, *VOLUMES)


def write_metrics_json(metrics: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write metrics.json, whole or not at all; what does not apply is null, never NaN."""
    write_json_atomic(path, metrics)


def write_metrics_csv(metrics: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write one row a case and organ; a cell is empty where the metric does not apply, and `status` says why.

    A protocol's metrics that no other has are columns at the end.
    """
    import pandas as pd

    columns = dict.fromkeys((*COLUMNS, *metrics["metrics"]))
    table = pd.DataFrame(case_rows(metrics), columns=list(columns))
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def write_summary_tables(metrics: Mapping[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write metrics.md and metrics.tex: each organ's means with their 95 % intervals, and how often it was missed."""
    for name, written in (("metrics.md", markdown_table), ("metrics.tex", latex_table)):
        write_text_atomic(os.path.join(folder, name), summary_table(metrics, written))


def case_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one flat row a case and organ, in the order of the cases and of the card."""
    return [
        {"case": case["case"], "patient": case["patient"], "organ": organ, **scores}
        for case in metrics["cases"]
        for organ, scores in case["organs"].items()
    ]


def summary_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row an organ: its metrics' summaries, and how many cases have which other status than ok."""
    rows = []
    for organ, summaries in metrics["summary"]["organs"].items():
        statuses = [case["organs"][organ]["status"] for case in metrics["cases"]]
        rows.append(
            {"organ": organ, "left_out": organ in metrics["summary"]["organs_left_out"]}
            | {metric: summaries[metric] for metric in METRICS}
            | {s: statuses.count(s) for s in ("missed", "false_positive", "absent", "not_annotated")}
        )
    return rows


def summary_table(metrics: Mapping[str, Any], written: Callable[..., str]) -> str:
    """Return the summary by organ, written by `markdown_table` or `latex_table`."""
    shown = [metric for metric in dict.fromkeys((*METRICS, *metrics["metrics"])) if metric in metrics["metrics"]]
    heads = ["organ", *(_title(metric) for metric in shown), "patients", "missed", "false positive", "absent"]
    summary, rows = metrics["summary"], []
    for organ, summaries in summary["organs"].items():
        counts = [str(metrics[status][organ]) for status in ("missed", "false_positive", "absent")]
        rows.append([readable(organ), *(_cell(summaries[m], m) for m in shown), str(summaries["dice"]["n"]), *counts])
    total = ["mean of organs", *(_cell(summary["mean"][m], m) for m in shown), str(summary["mean"]["dice"]["n"])]
    total += [str(sum(metrics[status].values())) for status in ("missed", "false_positive", "absent")]
    title = f"Card {metrics['card']}, protocol {metrics['protocol']}: {metrics['n_cases']} cases of "
    title += f"{metrics['n_patients']} patients. Mean by patient (95 % interval, BCa bootstrap)."
    left_out = ", ".join(readable(organ) for organ in summary["organs_left_out"])
    notes = [f"In no reference, so left out of the mean: {left_out}."] if left_out else []
    return written(heads, rows, title=title, total=total, notes=[*filter(None, [metrics["protocol_caveat"]]), *notes])


def _title(metric: str) -> str:
    return f"{TITLES[metric]} (mm)" if metric.endswith("_mm") else TITLES[metric]


def _cell(summary: Mapping[str, Any], metric: str) -> str:
    if summary["mean"] is None:
        return NOTHING
    mean = f"{summary['mean']:.{2 if metric.endswith(('_mm', '_voxels')) else 3}f}"
    return mean if summary["ci95"] is None else f"{mean} ({interval(summary['ci95'], metric)})"
