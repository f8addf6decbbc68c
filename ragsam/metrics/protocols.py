"""The clinical protocol: one organ of one case, with every degenerate case written down.

| status | reference | prediction | Dice, NSD | HD95, ASSD |
|---|---|---|---|---|
| ok | there | there | measured | measured |
| missed | there | empty, or no usable file | 0 | the image's diagonal |
| false_positive | empty | there | 0 | the image's diagonal |
| absent | empty | empty | null | null |
| not_annotated | unknown | any | null | null |

The first three count in every mean; the last two in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.metrics.overlap import dice, volume_ml
from ragsam.metrics.surface import assd_mm, hd95_mm, nsd, surface_distances

METRICS = ("dice", "nsd", "hd95_mm", "assd_mm")
LOWER_IS_BETTER = ("hd95_mm", "assd_mm")
COUNTED = ("ok", "missed", "false_positive")

RULES = (
    "Dice: twice the shared voxels over the sum of both masks' voxels.",
    "Surface: a mask minus its erosion by the 6 face neighbours; beyond the image's border is background.",
    "NSD: share of both surfaces' voxels within the organ's tolerance of the other surface, by voxels, not by area.",
    "HD95: the larger of the two directed 95th percentiles of surface distance, in mm by the affine's spacing.",
    "ASSD: the mean surface distance of both directions pooled, in mm.",
    "Missed (in the reference, not predicted): Dice 0, NSD 0, HD95 and ASSD the image's physical diagonal; it counts.",
    "False positive (predicted, not in the reference): scored like a miss; it counts.",
    "Absent (in neither): no score, left out of the means and counted apart.",
    "Not annotated: the case's reference does not cover the organ; no score.",
    "A prediction that is missing, unreadable or of another geometry: the reference's organs count as missed.",
    "An organ in no reference has no mean, and is left out of the mean over organs.",
    "Means are by patient: volumes of one patient are averaged first. The mean over organs is the mean of their means.",
    "Intervals: 95 %, bootstrap of patients (BCa, 9999 resamples, fixed seed); none for fewer than 3 patients.",
)


def score_organ(
    reference: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    *,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    penalty_mm: float,
) -> dict[str, Any]:
    """Score one organ of one case; both masks may be cropped alike, as long as nothing of either is cut off.

    Args:
        reference, prediction: [X, Y, Z], bool.
        spacing_mm: (3,), mm, array order.
        tolerance_mm: the organ's tolerance for the NSD.
        penalty_mm: HD95 and ASSD of an organ that is missed or made up: the whole image's diagonal.

    Returns:
        status, dice, nsd, hd95_mm, assd_mm, volume_reference_ml, volume_prediction_ml; None for what does not apply,
        never NaN.
    """
    voxels = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    volumes = {
        "volume_reference_ml": volume_ml(voxels[0], spacing_mm),
        "volume_prediction_ml": volume_ml(voxels[1], spacing_mm),
    }
    if not all(voxels):
        status = "missed" if voxels[0] else "false_positive" if voxels[1] else "absent"
        return unmeasured(status, penalty_mm) | volumes
    distances = surface_distances(reference, prediction, spacing_mm)
    return {
        "status": "ok",
        "dice": dice(reference, prediction),
        "nsd": nsd(distances, tolerance_mm),
        "hd95_mm": hd95_mm(distances),
        "assd_mm": assd_mm(distances),
    } | volumes


def unmeasured(status: str, penalty_mm: float | None = None) -> dict[str, Any]:
    """Return the entry of an organ that cannot be measured: the penalty where it counts, None where it does not."""
    counts = status in COUNTED
    overlap, distance = (0.0, penalty_mm) if counts else (None, None)
    return {
        "status": status,
        "dice": overlap,
        "nsd": overlap,
        "hd95_mm": distance,
        "assd_mm": distance,
        "volume_reference_ml": None,
        "volume_prediction_ml": None,
    }
