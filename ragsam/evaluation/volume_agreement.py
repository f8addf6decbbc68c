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

    Returns:
        n: such cases; bias_ml: the mean difference, None for no case; limits_ml: bias minus and plus 1.96 standard
        deviations, None for fewer than 3 cases; bias_percent: the mean difference as a share of the mean reference;
        points: (mean of both, difference, status) in ml of every case with both volumes and something in one of them.
    """
    points, means, differences = [], [], []
    for case in cases:
        entry = case["organs"][organ]
        reference_ml = entry["volume_reference_ml"]
        prediction_ml = entry["volume_prediction_ml"]
        if None in (reference_ml, prediction_ml) or reference_ml + prediction_ml == 0:
            continue
        mean = (reference_ml + prediction_ml) / 2
        difference = prediction_ml - reference_ml
        points.append((mean, difference, entry["status"]))
        if entry["status"] == "ok":
            means.append(mean)
            differences.append(difference)
    agreement = {"n": len(means), "bias_ml": None, "limits_ml": None, "bias_percent": None, "points": points}
    if means:
        bias = float(np.mean(differences))
        references = np.array(means) - np.array(differences) / 2
        agreement["bias_ml"] = bias
        agreement["bias_percent"] = 100 * bias / float(references.mean())
    if len(means) >= MIN_CASES:
        reach = _LIMIT_DEVIATIONS * float(np.std(differences, ddof=1))
        agreement["limits_ml"] = [bias - reach, bias + reach]
    return agreement
