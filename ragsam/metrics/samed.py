"""The conventions of SAMed's (and TransUNet's) test script on Synapse, to the digit, to set figures beside theirs.

They measure distances in voxels, and reward what other protocols punish; so these figures are no measure of quality.

Source: the script's arithmetic, as facts; Zhang and Liu, "Customized Segment Anything Model for Medical Image
Segmentation", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ragsam.metrics.overlap import Mask, dice
from ragsam.metrics.scoring import entry, status_of, volumes
from ragsam.metrics.surface import hd95_pooled_mm, surface_distances

SCORED = ("dice", "hd95_voxels")
CAVEAT = "samed: HD95 is in voxels, not in mm, and kind to missed organs (0, the best); a made-up organ has Dice 1."
RULES = (
    CAVEAT + " For comparison with SAMed's published figures only.",
    "Dice: twice the shared voxels over the sum of both masks' voxels.",
    "HD95 (voxels): the 95th percentile of both directions' surface distances together, as medpy has it, with every "
    "voxel taken for a cube of side 1.",
    "Missed (in the reference, not predicted): Dice 0, HD95 0; it counts.",
    "False positive (predicted, not in the reference): Dice 1, HD95 0; it counts.",
    "Absent (in neither): Dice 0, HD95 0; it counts. So does an organ that no reference has.",
    "No metric in mm and no NSD is part of it.",
)


def score_organ(
    reference: Mask,
    prediction: Mask,
    *,
    organ: str,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    penalty_mm: float,
) -> dict[str, Any]:
    """Score one organ of one case; arguments as of `ragsam.metrics.clinical.score_organ`.

    Organ, tolerance and penalty are no part of these conventions, and the spacing is for the volumes alone.
    """
    status = status_of(reference, prediction)
    overlap = float(status == "false_positive")
    distance = 0.0
    if status == "ok":
        overlap = dice(reference, prediction)
        distance = hd95_pooled_mm(surface_distances(reference, prediction, (1.0, 1.0, 1.0)))
    return entry(status, dice=overlap, hd95_voxels=distance, **volumes(reference, prediction, spacing_mm))
