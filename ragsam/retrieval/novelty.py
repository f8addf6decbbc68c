"""Novelty: how far a volume lies from a bank, beside how far the bank's own volumes lie from those of other patients.

A volume's score is the mean over its slices of one minus the cosine of the nearest slice in the bank; of a slice's
windows the nearest counts. The bank's own volumes are scored in the same way, their own patient left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

#: A volume is flagged where one of the bank's kind would lie as far away with a probability below this.
FLAG_BELOW = 0.01
#: So many volumes of a bank are scored, and so many slices of each, evenly chosen: a distribution needs no more.
SCORED_CASES = 200
SCORED_SLICES = 64


@dataclass(frozen=True)
class Novelty:
    """How new a volume is.

    Attributes:
        score: the mean distance, 0 for a copy.
        percentile: share of the bank's volumes that are nearer to the rest of it, 0-100.
        p_value: the probability that a volume of the bank's kind is as far away, by Student's prediction interval of
            the logarithm of the bank's scores; None if the bank has fewer than three.
    """

    score: float
    percentile: float
    p_value: float | None

    @property
    def flagged(self) -> bool:
        """Whether the volume is unlike what is in the bank."""
        return self.p_value is not None and self.p_value < FLAG_BELOW

    def as_json(self) -> dict[str, Any]:
        """Return what is written of it, to four digits."""
        numbers = {name: None if value is None else float(f"{value:.4g}") for name, value in asdict(self).items()}
        return {**numbers, "flagged": self.flagged}


def novelty(slices: Sequence[Hashable], cosines: np.ndarray, bank_scores: Iterable[float]) -> Novelty | None:
    """Rank a volume; None if nothing was compared.

    Args:
        slices: [n], which slice each window is of.
        cosines: [n], of each window's nearest slice in the bank; -inf or NaN where none was found.
        bank_scores: of the bank's own volumes, see `bank_scores`.
    """
    score, known = volume_score(slices, cosines), np.array(list(bank_scores), float)
    if score is None or not len(known):
        return None
    percentile = 100 * float((known < score).mean())
    if len(known) < 3:
        return Novelty(score, percentile, None)
    logs = np.log(np.maximum(known, 1e-9))
    spread = max(float(logs.std(ddof=1)), 1e-3) * (1 + 1 / len(logs)) ** 0.5
    away = (np.log(max(score, 1e-9)) - logs.mean()) / spread
    return Novelty(score, percentile, float(stats.t.sf(away, len(logs) - 1)))


def volume_score(slices: Sequence[Hashable], cosines: np.ndarray) -> float | None:
    """Return the mean over the slices of the distance of their nearest window; None if no window has any."""
    nearest: dict[Hashable, float] = {}
    for number, cosine in zip(slices, np.asarray(cosines, float).tolist(), strict=True):
        if np.isfinite(cosine):
            nearest[number] = max(nearest.get(number, -1.0), cosine)
    return 1 - sum(nearest.values()) / len(nearest) if nearest else None


def bank_scores(
    descriptors: np.ndarray, patients: np.ndarray, cases: np.ndarray, slices: np.ndarray
) -> dict[str, float]:
    """Score a bank's own volumes, each against the other patients'.

    Args:
        descriptors: [N, D], unit.
        patients, cases: [N], pseudonyms.
        slices: [N], index of the slice in its volume.

    Returns:
        Scores by case, of at most `SCORED_CASES`; none where the bank has one patient.
    """
    scored = {}
    for case in _evenly(np.unique(cases), SCORED_CASES):
        rows = np.flatnonzero(cases == case)
        scored[str(case)] = rows[np.isin(slices[rows], _evenly(np.unique(slices[rows]), SCORED_SLICES))]
    if sum(map(len, scored.values())) == len(descriptors):
        nearest = _nearest_of_all(descriptors, patients, list(scored.values()))
    else:
        nearest = [_nearest(descriptors[rows], descriptors, patients != patients[rows[0]]) for rows in scored.values()]
    found = {
        case: volume_score(slices[rows].tolist(), cosines)
        for (case, rows), cosines in zip(scored.items(), nearest, strict=True)
    }
    return {case: score for case, score in found.items() if score is not None}


def _nearest_of_all(descriptors: np.ndarray, patients: np.ndarray, volumes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return for every volume what `_nearest` does, each pair of volumes compared once; `volumes` are all rows."""
    order = np.concatenate([np.empty(0, int), *volumes])
    descriptors, patients = descriptors[order], patients[order]
    best, found, start = np.full(len(order), -np.inf), [], 0
    for rows in volumes:
        end = start + len(rows)
        mine, later = slice(start, end), slice(end, None)
        if end < len(order):
            cosines = np.where(patients[later] != patients[start], descriptors[mine] @ descriptors[later].T, -np.inf)
            best[mine] = np.maximum(best[mine], cosines.max(1))
            best[later] = np.maximum(best[later], cosines.max(0))
        found.append(best[mine])  # those behind come no more
        start = end
    return found


def _nearest(queries: np.ndarray, descriptors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines [n] of the nearest of the others, block by block; -inf where absent."""
    best = np.full(len(queries), -np.inf)
    for start in range(0, len(descriptors), 65536):
        block = slice(start, start + 65536)
        cosines = np.where(others[block], queries @ descriptors[block].T, -np.inf)
        best = np.maximum(best, cosines.max(1))
    return best


def _evenly(values: np.ndarray, most: int) -> np.ndarray:
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(int)]
