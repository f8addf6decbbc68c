"""Wilcoxon's signed-rank test of paired differences, and Holm's correction for many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

Key = TypeVar("Key")

# Differences of averaged scores that equal each other, or zero, but for rounding: ranks must not tell them apart.
_DECIMALS = 12


def wilcoxon_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test that differences are as often and as far up as down.

    Args:
        differences: one a patient; zeros are left out, as Wilcoxon did.

    Returns:
        0-1; None where there is no difference at all to rank, or none but zeros. Exact up to 50 differences without
        ties and up to 13 with ties, else by the normal approximation. With fewer than 6 it cannot fall below 0.05.

    Source: Wilcoxon, "Individual comparisons by ranking methods", 1945.
    """
    rounded = np.round(np.asarray(differences, dtype=np.float64), _DECIMALS)
    rounded = rounded[rounded != 0]
    return float(stats.wilcoxon(rounded).pvalue) if len(rounded) else None


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Return each p corrected for the number of tests by Holm's step-down method; None stays, and is no test.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values.values()) if p is not None)
    corrected: dict[int, float] = {}
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        corrected[place] = largest
    return {key: corrected.get(place) for place, key in enumerate(p_values)}
