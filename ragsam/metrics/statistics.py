"""Means and paired differences with bootstrap intervals, always by patient.

A table is {column: {patient: [values]}}: columns are organs, values the scores of that patient's volumes. Volumes of
one patient are no independent samples, so they are averaged first, and whole patients are drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ragsam.metrics.significance import wilcoxon_p

Table = Mapping[str, Mapping[str, Sequence[float]]]

RESAMPLES = 9999
MIN_PATIENTS = 3
# Values drawn at once, patients times organs times resamples: keeps the bootstrap's memory under about 100 MB.
_BATCH_VALUES = 2_000_000


def mean_interval(table: Table, *, seed: int = 0) -> dict[str, Any]:
    """Return the mean over columns of each column's mean over patients, with its 95 % interval.

    Args:
        table: see the module; a single column gives that organ's plain mean over patients. A patient may lack a
            column; a column without values is left out.
        seed: of the bootstrap.

    Returns:
        mean, ci95 ([low, high] or None), n (patients), n_cases (volumes: a patient's most in one column), method.
        Degenerate cases: no value: mean and ci95 None, n 0; fewer than 3 patients: ci95 None, since nothing can be said
        about the spread; all patients equal: an interval of no width; BCa undefined (resamples all on one side, or a
        jackknife without spread): the percentile interval. `method` names which one it was.
    """
    matrix = _matrix(table)
    mean, interval, method = _bootstrap(matrix, seed)
    volumes: dict[str, int] = {}
    for column in table.values():
        for patient, values in column.items():
            volumes[patient] = max(volumes.get(patient, 0), len(values))
    return {
        "mean": mean,
        "ci95": interval,
        "n": len(matrix),
        "n_cases": sum(volumes.values()),
        "method": method,
    }


def paired_difference(first: Table, second: Table, *, lower_is_better: bool = False, seed: int = 0) -> dict[str, Any]:
    """Return first minus second, patient by patient, with the 95 % interval of the mean difference.

    Only what both runs scored is paired: a column of a patient that one of them lacks is left out and counted.

    Args:
        lower_is_better: whether a win of `first` is a smaller value.

    Returns:
        mean_difference, ci95, n (patients), method (see `mean_interval`), wins, losses and ties (patients for whom
        `first` is better, worse or equal, by the mean over that patient's columns), p (Wilcoxon's of these means; see
        `wilcoxon_p`), unpaired (scores left out).
    """
    paired: dict[str, dict[str, list[float]]] = {}
    unpaired = 0
    for column in first.keys() | second.keys():
        ours = first.get(column, {})
        theirs = second.get(column, {})
        unpaired += len(ours.keys() ^ theirs.keys())
        paired[column] = {}
        for patient in ours.keys() & theirs.keys():
            difference = float(np.mean(ours[patient])) - float(np.mean(theirs[patient]))
            paired[column][patient] = [difference]
    matrix = _matrix(paired)
    mean, interval, method = _bootstrap(matrix, seed)
    by_patient = np.nanmean(matrix, axis=1)
    if lower_is_better:
        by_patient = -by_patient
    return {
        "mean_difference": mean,
        "ci95": interval,
        "n": len(matrix),
        "method": method,
        "wins": int(np.count_nonzero(by_patient > 0)),
        "losses": int(np.count_nonzero(by_patient < 0)),
        "ties": int(np.count_nonzero(by_patient == 0)),
        "p": wilcoxon_p(by_patient),
        "unpaired": unpaired,
    }


def _matrix(table: Table) -> NDArray[np.float64]:
    """Return [patients, columns], NaN where a patient lacks a column; sorted, so that the cases' order is no matter."""
    columns, patients, means = [], [], []
    for column, by_patient in table.items():
        for patient, values in by_patient.items():
            if len(values):
                columns.append(column)
                patients.append(patient)
                means.append(np.mean(values))
    column_names, places = np.unique(columns, return_inverse=True)
    patient_names, rows = np.unique(patients, return_inverse=True)
    matrix = np.full((len(patient_names), len(column_names)), np.nan)
    matrix[rows, places] = means
    return matrix


def _mean_of_means(matrix: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the statistic of every set of rows; rows: [..., n]. A column that a resample lost is left out of it."""
    drawn = matrix[rows]
    there = ~np.isnan(drawn)
    counts = there.sum(axis=-2)
    sums = np.where(there, drawn, 0.0).sum(axis=-2)
    means = sums / np.maximum(counts, 1)
    return means.sum(axis=-1) / np.count_nonzero(counts, axis=-1)


def _bootstrap(matrix: NDArray[np.float64], seed: int) -> tuple[float | None, list[float] | None, str]:
    """Return mean, interval and the name of the method; see `mean_interval` for the degenerate cases."""
    if len(matrix) == 0:
        return None, None, "none: no values"
    everyone = np.arange(len(matrix))
    mean = float(_mean_of_means(matrix, everyone))
    if len(matrix) < MIN_PATIENTS:
        return mean, None, f"none: fewer than {MIN_PATIENTS} patients"
    same = (matrix == matrix[0]) | (np.isnan(matrix) & np.isnan(matrix[0]))
    if same.all():
        return mean, [mean, mean], "all values are equal"
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            resampled = stats.bootstrap(
                (everyone,),
                lambda rows, axis=-1: _mean_of_means(matrix, np.moveaxis(rows, axis, -1)),
                n_resamples=RESAMPLES,
                batch=max(1, _BATCH_VALUES // matrix.size),
                vectorized=True,
                method=method,
                rng=np.random.default_rng(seed),
            )
        low, high = map(float, resampled.confidence_interval)
        if np.isfinite([low, high]).all():
            return mean, [low, high], f"{method} bootstrap by patient"
    return mean, None, "none: the bootstrap is undefined"
