"""Two or more evaluations of the same cases, each compared with the first: the content of compare.json."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.evaluation.paired_comparison import compare_metrics, compared_metrics, correct
from ragsam.files import read_json

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
_KEYS = ("card", "protocol", "cases", "summary")


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> dict[str, dict[str, Any]]:
    """Return {name: content of metrics.json} of evaluations, in their order.

    Args:
        paths: folders that `ragsam evaluate` wrote, or metrics.json files. A run has the name of its folder, with as
            many folders above it as tell it from the others.

    Raises:
        InputError: where there are fewer than two, one stands there twice, or one is no evaluation.
    """
    files = [path / "metrics.json" if path.is_dir() else path for path in map(Path, paths)]
    if len(files) < 2:
        raise InputError("one evaluation cannot be compared; name two or more")
    named = [file.absolute().parent if file.name == "metrics.json" else file.absolute() for file in files]
    if len(set(named)) < len(named):
        twice = next(path for path in named if named.count(path) > 1)
        raise InputError(f"{twice.name}: the evaluation is there twice; name each once")
    return {name: _read(file) for name, file in zip(_names(named), files, strict=True)}


def compare_runs(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Compare every run with the first.

    Args:
        runs: {name: content of metrics.json}, two or more.

    Returns:
        card, protocol, protocol_caveat, metrics (what is compared), baseline (the first run's name); runs: {name:
        n_cases, n_patients and mean, as in its own summary}; comparisons: for each other run what `compare_metrics`
        returns, with run and won, lost and tied (numbers of cases); rules.

    Raises:
        InputError: as `compare_metrics`, naming the run.
    """
    (baseline, first), *others = runs.items()
    comparisons = []
    for name, metrics in others:
        try:
            comparison = compare_metrics(metrics, first)
        except InputError as error:
            raise InputError(f"{name} against {baseline}: {error}") from error
        outcomes = [case["outcome"] for case in comparison["cases"]]
        counts = {"won": outcomes.count("better"), "lost": outcomes.count("worse"), "tied": outcomes.count("equal")}
        comparisons.append({"run": name} | counts | comparison)
    correct(comparisons)
    return {
        **{key: first.get(key) for key in ("card", "protocol", "protocol_caveat")},
        "metrics": [name for name in compared_metrics(first) if _scored(first, name)],
        "baseline": baseline,
        "runs": {
            name: {f"n_{key}s": len({case[key] for case in run["cases"]}) for key in ("case", "patient")}
            | {"mean": run["summary"]["mean"]}
            for name, run in runs.items()
        },
        "comparisons": comparisons,
        "rules": list(RULES),
    }


def _scored(metrics: Mapping[str, Any], name: str) -> bool:
    return metrics["summary"]["mean"].get(name, {}).get("mean") is not None


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file}: no such evaluation; name a folder that `ragsam evaluate` wrote")
    content = read_json(file)
    if not isinstance(content, dict) or not all(key in content for key in _KEYS):
        raise InputError(f"{file}: not an evaluation's metrics.json; name a folder that `ragsam evaluate` wrote")
    return content


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of different paths that tell them apart."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
