"""Two or more evaluations of the same cases, each compared with the first: the content of compare.json."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.evaluation.metrics_file import read_metrics
from ragsam.evaluation.paired_comparison import compare_metrics, compared_metrics, correct

RULES = (
    "Every run is compared with the first one, on the cases that both scored; a difference is the run minus the first.",
    "Differences are by patient: volumes of one patient are averaged first. The mean over organs is the mean of the "
    "organs' mean differences.",
    "Intervals: 95 %, bootstrap of patients (BCa, 9999 resamples, fixed seed); none for fewer than 3 patients.",
    "p: Wilcoxon's signed-rank test by patient, two-sided, corrected by Holm's method for all organs of all runs that "
    "are compared, metric by metric; that of the mean over organs for the number of runs. With fewer than 6 patients "
    "it cannot fall below 0.05.",
    "Better and worse: p below 0.05 after correction. For a distance, smaller is better.",
    "A case is won where its mean Dice over the organs that both runs scored is higher, whatever the difference.",
)


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> dict[str, dict[str, Any]]:
    """Return {name: content of metrics.json} of evaluations, in their order.

    Args:
        paths: folders that `ragsam evaluate` wrote, or metrics.json files. A run has the name of its folder, with as
            many folders above it as tell it from the others.

    Raises:
        InputError: where there are fewer than two, one stands there twice, or one is no evaluation.
    """
    if len(paths) < 2:
        raise InputError("one evaluation cannot be compared; name two or more")
    runs: dict[Path, dict[str, Any]] = {}
    for path in paths:
        file = metrics_file(path)
        place = file.absolute()
        if file.name == "metrics.json":
            place = place.parent
        if place in runs:
            raise InputError(f"{place.name}: the evaluation is there twice; name each once")
        if not file.is_file():
            raise InputError(f"{file}: no such evaluation; name a folder that `ragsam evaluate` wrote")
        runs[place] = read_metrics(file)
    length = 1
    while len({place.parts[-length:] for place in runs}) < len(runs):
        length += 1
    return {"/".join(place.parts[-length:]): content for place, content in runs.items()}


def metrics_file(path: str | os.PathLike[str]) -> Path:
    """Return the metrics.json of an evaluation's folder, or the file that is given."""
    return Path(path) / "metrics.json" if Path(path).is_dir() else Path(path)


def compare_runs(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Compare every run, {name: content of metrics.json}, with the first.

    Returns:
        card, protocol, protocol_caveat, metrics (what is compared), baseline (the first run's name); runs: {name:
        n_cases, n_patients and mean, as in its own summary}; comparisons: for each other run what `compare_metrics`
        returns, with run and won, lost and tied (numbers of cases); rules.

    Raises:
        InputError: as `compare_metrics`, naming the run.
    """
    baseline = next(iter(runs))
    first = runs[baseline]
    comparisons = []
    means = {}
    for name, metrics in runs.items():
        means[name] = {
            "n_cases": len(metrics["cases"]),
            "n_patients": len({case["patient"] for case in metrics["cases"]}),
            "mean": metrics["summary"]["mean"],
        }
        if name == baseline:
            continue
        try:
            comparison = compare_metrics(metrics, first)
        except InputError as error:
            raise InputError(f"{name} against {baseline}: {error}") from error
        outcomes = Counter(case["outcome"] for case in comparison["cases"])
        counts = {"won": outcomes["better"], "lost": outcomes["worse"], "tied": outcomes["equal"]}
        comparisons.append({"run": name} | counts | comparison)
    correct(comparisons)
    mean = first["summary"]["mean"]
    return {
        "card": first["card"],
        "protocol": first["protocol"],
        "protocol_caveat": first.get("protocol_caveat"),
        "metrics": [metric for metric in compared_metrics(first) if mean.get(metric, {}).get("mean") is not None],
        "baseline": baseline,
        "runs": means,
        "comparisons": comparisons,
        "rules": list(RULES),
    }
