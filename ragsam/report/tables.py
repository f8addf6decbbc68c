"""Metrics as files and as rows: metrics.json, metrics.csv and the summary by organ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ragsam.files import atomic_write, write_json_atomic
from ragsam.metrics.protocols import COUNTED, METRICS

VOLUMES = ("volume_reference_ml", "volume_prediction_ml")
COLUMNS = ("case", "patient", "organ", "status", *METRICS, *VOLUMES)


def write_metrics_json(metrics: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write metrics.json, whole or not at all; what does not apply is null, never NaN."""
    write_json_atomic(path, metrics)


def write_metrics_csv(metrics: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write one row a case and organ; a cell is empty where the metric does not apply, and `status` says why."""
    import pandas as pd

    table = pd.DataFrame(case_rows(metrics), columns=list(COLUMNS))
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")


def case_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one flat row a case and organ, in the order of the cases and of the card."""
    return [
        {"case": case["case"], "patient": case["patient"], "organ": organ}
        | {key: scores[key] for key in ("status", *METRICS, *VOLUMES)}
        for case in metrics["cases"]
        for organ, scores in case["organs"].items()
    ]


def summary_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row an organ: its metrics' summaries, how many cases count, and how many have which other status."""
    rows = []
    for organ, summaries in metrics["summary"]["organs"].items():
        statuses = [case["organs"][organ]["status"] for case in metrics["cases"]]
        rows.append(
            {"organ": organ, "left_out": organ in metrics["summary"]["organs_left_out"]}
            | {metric: summaries[metric] for metric in METRICS}
            | {"counted": sum(status in COUNTED for status in statuses)}
            | {s: statuses.count(s) for s in ("missed", "false_positive", "absent", "not_annotated")}
        )
    return rows
