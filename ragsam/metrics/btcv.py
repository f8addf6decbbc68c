"""The protocol of figures on the 13 organs of BTCV: as clinical, but for the organs it is for and the NSD.

Published figures are Dice of five folds, an organ that is in neither mask left out, as nnU-Net's evaluation has it.

Source: Landman et al., "Multi-Atlas Labeling Beyond the Cranial Vault", 2015 (Dice and surface distances in mm).
"""

from __future__ import annotations

from typing import Any

from ragsam.metrics import clinical

SCORED = ("dice", "iou", "hd95_mm", "hd95_pooled_mm", "hd95_area_mm", "hd_mm", "assd_mm")
ORGANS = (
    "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior_vena_cava", "portal_and_splenic_vein", "pancreas", "right_adrenal_gland", "left_adrenal_gland",
)  # fmt: skip
RULES = (
    "BTCV: all of its 13 organs. To be set beside five-fold figures of the 30 labelled cases, never beside Synapse-8 "
    "(18 cases for training, 12 for testing). NSD is no part of it, since the challenge has no tolerances.",
    clinical.OVERLAP_RULE,
    *clinical.OTHER_RULES,
)


def score_organ(*masks: Any, **options: Any) -> dict[str, Any]:
    """Score one organ of one case as `ragsam.metrics.clinical.score_organ` does, without the NSD."""
    return clinical.score_organ(*masks, **options) | {"nsd": None}
