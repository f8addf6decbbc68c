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
    patients = {patient for column in table.values() for patient in column}
    volumes = sum(max(len(column.get(patient, ())) for column in table.values()) for patient in patients)
    mean, interval, method = _bootstrap(matrix, seed)
    return {"mean": mean, "ci95": interval, "n": len(matrix), "n_cases": volumes, "method": method}


def paired_difference(first: Table, second: Table, *, lower_is_better: bool = False, seed: int = 0) -> dict[str, Any]:
    """Return first minus second, patient by patient, with the 95 % interval of the mean difference.

    Only what both runs scored is paired: a column of a patient that one of them lacks is left out and counted.

    Args:
        first, second: see the module.
        lower_is_better: whether a win of `first` is a smaller value.
        seed: of the bootstrap.

    Returns:
        mean_difference, ci95, n (patients), method (see `mean_interval`), wins, losses and ties (patients for whom
        `first` is better, worse or equal, by the mean over that patient's columns), p (Wilcoxon's of these means; see
        `wilcoxon_p`), unpaired (scores left out).
    """
    paired: dict[str, dict[str, list[float]]] = {}
    unpaired = 0
    for column in sorted(set(first) | set(second)):
        a, b = first.get(column, {}), second.get(column, {})
        unpaired += len(set(a) ^ set(b))
        paired[column] = {
            patient: [float(np.mean(a[patient])) - float(np.mean(b[patient]))] for patient in sorted(set(a) & set(b))
        }
    matrix = _matrix(paired)
    mean, interval, method = _bootstrap(matrix, seed)
    by_patient = np.array([np.nanmean(row) for row in matrix]) * (-1 if lower_is_better else 1)
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
    columns = [column for column in sorted(table) if any(len(values) for values in table[column].values())]
    patients = sorted({patient for column in columns for patient, values in table[column].items() if len(values)})
    matrix = np.full((len(patients), len(columns)), np.nan)
    for j, column in enumerate(columns):
        for i, patient in enumerate(patients):
            if len(values := table[column].get(patient, ())):
                matrix[i, j] = np.mean(values)
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
    n = len(matrix)
    if not n:
        return None, None, "none: no values"
    mean = float(_mean_of_means(matrix, np.arange(n)))
    if n < MIN_PATIENTS:
        return mean, None, f"none: fewer than {MIN_PATIENTS} patients"
    if np.all((matrix == matrix[0]) | (np.isnan(matrix) & np.isnan(matrix[0]))):
        return mean, [mean, mean], "all values are equal"
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (np.arange(n),),
                lambda rows, axis=-1: _mean_of_means(matrix, np.moveaxis(rows, axis, -1)),
                n_resamples=RESAMPLES,
                batch=max(1, _BATCH_VALUES // matrix.size),
                vectorized=True,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            return mean, [float(found.low), float(found.high)], f"{method} bootstrap by patient"
    return mean, None, "none: the bootstrap is undefined"
