"""Wilcoxon's signed-rank test of paired differences, and Holm's correction for many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

Key = TypeVar("Key")

# Differences of averaged scores that equal each other, or zero, but for rounding: ranks must not distinguish them.
_DECIMALS = 12


def wilcoxon_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test that differences are as often and as far up as down.

    Args:
        differences: one a patient; zeros are left out, as Wilcoxon did.

    Returns:
        0-1; None if there is no difference at all to rank, or none but zeros. Exact up to 50 differences without
        ties and up to 13 with ties, else by the normal approximation. With fewer than 6 it cannot fall below 0.05.

    Source: Wilcoxon, "Individual comparisons by ranking methods", 1945.
    """
    rounded = np.round(np.asarray(differences, dtype=np.float64), _DECIMALS)
    ranked = rounded[rounded != 0]
    if len(ranked) == 0:
        return None
    return float(stats.wilcoxon(ranked).pvalue)


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Return each p corrected for the number of tests by Holm's step-down method; None stays, and is no test.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    corrected: dict[Key, float | None] = dict.fromkeys(p_values)
    tested = {key: p for key, p in p_values.items() if p is not None}
    remaining = len(tested)
    largest = 0.0
    for key in sorted(tested, key=tested.__getitem__):
        bound = min(1.0, remaining * tested[key])
        largest = max(largest, bound)
        corrected[key] = largest
        remaining -= 1
    return corrected
