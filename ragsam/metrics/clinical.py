"""The clinical protocol: true distances in mm, the card's tolerances, and no organ that is missed is ever dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ragsam.metrics.overlap import Mask
from ragsam.metrics.scoring import entry, measure, penalty, status_of, volumes

OVERLAP_RULE = (
    "Dice: twice the shared voxels over the sum of both masks' voxels. IoU: the shared voxels over the union's."
)
NSD_RULE = (
    "NSD: the share of both surfaces' area within the organ's tolerance of the other surface. A surface element lies "
    "where eight voxels meet, with the area that marching cubes give it (as DeepMind's surface-distance)."
)
OTHER_RULES = (
    "Surface for the distances: a mask minus its erosion by the 6 face neighbours; beyond the image's border is "
    "background. Distances run between voxel centres, in mm by the affine's spacing.",
    "HD95: the larger of the two directed 95th percentiles. HD95 pooled: the percentile of both directions together, "
    "as medpy has it. HD95 by area: the larger of the two distances within which 95 % of a surface's area lies, as "
    "DeepMind's surface-distance. HD: the largest distance. ASSD: the mean of both directions together.",
    "Missed (in the reference, not predicted): Dice, IoU and NSD 0, every distance the image's physical diagonal; it "
    "counts.",
    "False positive (predicted, not in the reference): scored like a miss; it counts.",
    "Absent (in neither): no score, left out of the means and counted apart.",
    "An organ in no reference has no mean, and is left out of the mean over organs.",
)
RULES = (OVERLAP_RULE, NSD_RULE, *OTHER_RULES)


def score_organ(
    reference: Mask,
    prediction: Mask,
    *,
    organ: str,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    penalty_mm: float,
) -> dict[str, Any]:
    """Score one organ of one case.

    Args:
        reference, prediction: [X, Y, Z], bool; both may be cropped alike, as long as nothing of either is cut off.
        organ: its name; every organ is scored alike.
        spacing_mm: (3,), mm, array order.
        tolerance_mm: the organ's tolerance for the NSD.
        penalty_mm: every distance of an organ that is missed or made up: the whole image's diagonal.

    Returns:
        as `ragsam.metrics.scoring.entry`.
    """
    status = status_of(reference, prediction)
    scores: dict[str, float | None] = {}
    if status == "ok":
        scores = measure(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
    elif status != "absent":
        scores = penalty(penalty_mm)
    return entry(status, **scores, **volumes(reference, prediction, spacing_mm))
