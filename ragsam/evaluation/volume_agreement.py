"""How predicted volumes agree with the reference's: bias and limits of agreement, organ by organ.

Source: Bland and Altman, Statistical methods for assessing agreement between two methods of clinical measurement,
Lancet 1986.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MIN_CASES = 3
_LIMIT_DEVIATIONS = 1.96


def volume_agreement(cases: Sequence[Mapping[str, Any]], organ: str) -> dict[str, Any]:
    """Return the agreement of an organ's volumes, prediction minus reference, of the cases in which both have it.

    Args:
        cases: metrics.json's.
        organ: its name.

    Returns:
        n: such cases; bias_ml: the mean difference, None for no case; limits_ml: bias minus and plus 1.96 standard
        deviations, None for fewer than 3 cases; bias_percent: the mean difference as a share of the mean reference;
        points: (mean of both, difference, status) in ml of every case with both volumes and something in one of them.
    """
    points = []
    for case in cases:
        entry = case["organs"][organ]
        first, second = entry["volume_reference_ml"], entry["volume_prediction_ml"]
        if first is not None and second is not None and (first or second):
            points.append(((first + second) / 2, second - first, entry["status"]))
    both = np.array([(mean, difference) for mean, difference, status in points if status == "ok"]).reshape(-1, 2)
    bias = limits = percent = None
    if len(both):
        bias = float(both[:, 1].mean())
        percent = 100 * bias / float((both[:, 0] - both[:, 1] / 2).mean())
    if bias is not None and len(both) >= MIN_CASES:
        reach = _LIMIT_DEVIATIONS * float(both[:, 1].std(ddof=1))
        limits = [bias - reach, bias + reach]
    return {"n": len(both), "bias_ml": bias, "limits_ml": limits, "bias_percent": percent, "points": points}
