"""Two runs on the same cases, patient by patient and case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ragsam.errors import InputError
from ragsam.evaluation.score_cases import Cases, score_table
from ragsam.metrics.protocols import ALL_METRICS, LOWER_IS_BETTER, METRICS
from ragsam.metrics.significance import holm
from ragsam.metrics.statistics import paired_difference

# Dice of two runs on one case is the same where it differs by less: the files hold all digits of a mean.
_SAME = 1e-12


def compare_metrics(metrics: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paired differences, metrics minus baseline, of the cases that both runs scored.

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
    first, second, alone = _paired_cases(metrics["cases"], baseline["cases"])
    left_out = {*metrics["summary"]["organs_left_out"], *baseline["summary"]["organs_left_out"]}
    counted = [organ for organ in organs if organ not in left_out]
    by_organ: dict[str, dict[str, Any]] = {organ: {} for organ in organs}
    mean = {}
    for metric in compared_metrics(metrics):
        for organ, differences in by_organ.items():
            differences[metric] = _difference(first, second, [organ], metric)
        mean[metric] = _difference(first, second, counted, metric)
    comparison = {
        "organs": by_organ,
        "mean": mean,
        "cases": case_differences(first, second, counted),
        "n_cases": len(first),
        "n_patients": len({case["patient"] for case in first}),
        "cases_in_one_run": alone,
    }
    correct([comparison])
    return comparison


def compared_metrics(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of what is compared: the report's metrics, and those that only the runs' protocol has."""
    own = set(metrics.get("metrics", ())).difference(ALL_METRICS)
    return [*METRICS, *sorted(own)]


def correct(comparisons: Sequence[dict[str, Any]]) -> None:
    """Set `p_holm` of every difference: p corrected by Holm's method for all organs of all comparisons of a metric.

    The mean over organs is corrected apart, for the number of comparisons.
    """
    for metric in comparisons[0]["mean"]:
        means, organs = [], []
        for comparison in comparisons:
            means.append(comparison["mean"][metric])
            organs += map(itemgetter(metric), comparison["organs"].values())
        for family in (means, organs):
            p_values = enumerate(map(itemgetter("p"), family))
            for place, p in holm(dict(p_values)).items():
                family[place]["p_holm"] = p


def case_differences(first: Cases, second: Cases, organs: Sequence[str]) -> list[dict[str, Any]]:
    """Return how the Dice of each case differs, first minus second, the largest difference first.

    Returns:
        case, patient; organs: {organ: difference} of those that both runs scored; dice: the mean over these, of first
        and second; difference; outcome: better, worse or equal. Cases without such an organ are left out.
    """
    found = []
    for one, other in zip(first, second, strict=True):
        pairs = {}
        for organ in organs:
            pair = one["organs"][organ]["dice"], other["organs"][organ]["dice"]
            if None not in pair:
                pairs[organ] = pair
        if not pairs:
            continue
        dice = np.mean(list(pairs.values()), axis=0).tolist()
        difference = dice[0] - dice[1]
        outcome = "equal"
        if difference >= _SAME:
            outcome = "better"
        elif difference <= -_SAME:
            outcome = "worse"
        by_organ = {organ: ours - theirs for organ, (ours, theirs) in pairs.items()}
        entry = {"case": one["case"], "patient": one["patient"], "dice": dice, "difference": difference}
        found.append(entry | {"outcome": outcome, "organs": by_organ})
    return sorted(found, key=lambda entry: (-abs(entry["difference"]), entry["case"]))


def _paired_cases(ours: Cases, theirs: Cases) -> tuple[Cases, Cases, list[str]]:
    """Return the cases that both runs have, of either, and the names of those that only one has."""
    others = {case["case"]: case for case in theirs}
    first, second, alone = [], [], []
    for case in ours:
        other = others.pop(case["case"], None)
        if other is None:
            alone.append(case["case"])
            continue
        if case["patient"] != other["patient"]:
            raise InputError(f"{case['case']}: a different patient in each run; evaluate both with one datalist")
        first.append(case)
        second.append(other)
    if not first:
        raise InputError("the two runs share no case; evaluate both on the same cases")
    return first, second, sorted([*alone, *others])


def _difference(first: Cases, second: Cases, organs: Sequence[str], metric: str) -> dict[str, Any]:
    ours = score_table(first, organs, metric)
    theirs = score_table(second, organs, metric)
    return paired_difference(ours, theirs, lower_is_better=metric in LOWER_IS_BETTER)
