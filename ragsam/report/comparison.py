"""Two runs on the same cases, patient by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ragsam.errors import InputError
from ragsam.metrics.protocols import LOWER_IS_BETTER, METRICS
from ragsam.metrics.statistics import Table, paired_difference
from ragsam.report.evaluation import scores_by_patient


def compare_metrics(metrics: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paired differences, metrics minus baseline, of the cases that both runs scored.

    Args:
        metrics, baseline: contents of two metrics.json of one card and protocol.

    Returns:
        organs: {organ: {metric: see `paired_difference`}}; mean: {metric: the same over the organs that both runs'
        headline counts}; n_cases; cases_in_one_run: names that could not be paired.

    Raises:
        InputError: where card or protocol differ, no case is shared, or a case's patient is not the same in both.
    """
    for key in ("card", "protocol"):
        if metrics[key] != baseline[key]:
            raise InputError(f"the runs' {key} differs ({metrics[key]} and {baseline[key]}); compare like with like")
    first, second = ({case["case"]: case for case in run["cases"]} for run in (metrics, baseline))
    shared = [name for name in first if name in second]
    if not shared:
        raise InputError("the two runs share no case; evaluate both on the same cases")
    if apart := [name for name in shared if first[name]["patient"] != second[name]["patient"]]:
        raise InputError(f"{apart[0]}: another patient in either run; evaluate both with one datalist")
    cases = [first[name] for name in shared], [second[name] for name in shared]
    organs = list(metrics["summary"]["organs"])
    left_out = {*metrics["summary"]["organs_left_out"], *baseline["summary"]["organs_left_out"]}
    counted = [organ for organ in organs if organ not in left_out]
    return {
        "organs": {organ: {m: _difference(cases, [organ], m) for m in METRICS} for organ in organs},
        "mean": {m: _difference(cases, counted, m) for m in METRICS},
        "n_cases": len(shared),
        "cases_in_one_run": sorted(set(first) ^ set(second)),
    }


def _difference(
    cases: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], organs: Sequence[str], metric: str
) -> dict[str, Any]:
    tables: list[Table] = [{organ: scores_by_patient(run, organ, metric) for organ in organs} for run in cases]
    return paired_difference(*tables, lower_is_better=metric in LOWER_IS_BETTER)
