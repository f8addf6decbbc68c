"""Two runs on the same cases, patient by patient and case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ragsam.errors import InputError
from ragsam.evaluation.score_cases import scores_by_patient
from ragsam.metrics.protocols import ALL_METRICS, LOWER_IS_BETTER, METRICS
from ragsam.metrics.significance import holm
from ragsam.metrics.statistics import Table, paired_difference

Cases = Sequence[Mapping[str, Any]]

# Dice of two runs on one case is the same where it differs by less: the files hold all digits of a mean.
_SAME = 1e-12


def compare_metrics(metrics: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paired differences, metrics minus baseline, of the cases that both runs scored.

    Args:
        metrics, baseline: contents of two metrics.json of one card and protocol.

    Returns:
        organs: {organ: {metric: see `paired_difference`, and p_holm: see `correct`}}; mean: {metric: the same over the
        organs that both runs' headline counts}; cases: see `case_differences`; n_cases; n_patients; cases_in_one_run:
        names that could not be paired.

    Raises:
        InputError: where card, protocol or organs differ, no case is shared, or a case has another patient in either.
    """
    for key in ("card", "protocol"):
        if metrics[key] != baseline[key]:
            raise InputError(f"the runs' {key} differs ({metrics[key]} and {baseline[key]}); compare like with like")
    organs = list(metrics["summary"]["organs"])
    if organs != list(baseline["summary"]["organs"]):
        raise InputError("the runs' organs differ, though the card's name is the same; evaluate both with one card")
    first, second = ({case["case"]: case for case in run["cases"]} for run in (metrics, baseline))
    shared = [name for name in first if name in second]
    if not shared:
        raise InputError("the two runs share no case; evaluate both on the same cases")
    if apart := [name for name in shared if first[name]["patient"] != second[name]["patient"]]:
        raise InputError(f"{apart[0]}: another patient in either run; evaluate both with one datalist")
    cases = [first[name] for name in shared], [second[name] for name in shared]
    left_out = {*metrics["summary"]["organs_left_out"], *baseline["summary"]["organs_left_out"]}
    counted = [organ for organ in organs if organ not in left_out]
    names = compared_metrics(metrics)
    comparison = {
        "organs": {organ: {m: _difference(cases, [organ], m) for m in names} for organ in organs},
        "mean": {m: _difference(cases, counted, m) for m in names},
        "cases": case_differences(*cases, counted),
        "n_cases": len(shared),
        "n_patients": len({case["patient"] for case in cases[0]}),
        "cases_in_one_run": sorted(set(first) ^ set(second)),
    }
    correct([comparison])
    return comparison


def compared_metrics(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of what is compared: the report's metrics, and those that only the runs' protocol has."""
    return [*METRICS, *(name for name in metrics.get("metrics", ()) if name not in ALL_METRICS)]


def correct(comparisons: Sequence[dict[str, Any]]) -> None:
    """Set `p_holm` of every difference: p corrected by Holm's method for all organs of all comparisons of a metric.

    The mean over organs is corrected apart, for the number of comparisons.
    """
    for metric in comparisons[0]["mean"]:
        organs = {
            (i, organ): entry[metric] for i, one in enumerate(comparisons) for organ, entry in one["organs"].items()
        }
        means = {i: one["mean"][metric] for i, one in enumerate(comparisons)}
        for family in (organs, means):
            for key, p in holm({key: entry["p"] for key, entry in family.items()}).items():
                family[key]["p_holm"] = p


def case_differences(first: Cases, second: Cases, organs: Sequence[str]) -> list[dict[str, Any]]:
    """Return how the Dice of each case differs, first minus second, the largest difference first.

    Returns:
        case, patient; organs: {organ: difference} of those that both runs scored; dice: the mean over these, of first
        and second; difference; outcome: better, worse or equal. Cases without such an organ are left out.
    """
    differences = []
    for one, other in zip(first, second, strict=True):
        pairs = {organ: (one["organs"][organ]["dice"], other["organs"][organ]["dice"]) for organ in organs}
        pairs = {organ: pair for organ, pair in pairs.items() if None not in pair}
        if not pairs:
            continue
        dice = np.mean(list(pairs.values()), axis=0).tolist()
        difference = dice[0] - dice[1]
        outcome = "equal" if abs(difference) < _SAME else "better" if difference > 0 else "worse"
        differences.append(
            {"case": one["case"], "patient": one["patient"], "dice": dice, "difference": difference}
            | {"outcome": outcome, "organs": {organ: a - b for organ, (a, b) in pairs.items()}}
        )
    return sorted(differences, key=lambda entry: (-abs(entry["difference"]), entry["case"]))


def _difference(cases: tuple[Cases, Cases], organs: Sequence[str], metric: str) -> dict[str, Any]:
    tables: list[Table] = [{organ: scores_by_patient(run, organ, metric) for organ in organs} for run in cases]
    return paired_difference(*tables, lower_is_better=metric in LOWER_IS_BETTER)
