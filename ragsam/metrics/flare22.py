"""The protocol of the FLARE 2022 challenge: Dice and NSD of 13 organs, as its own script counts them, and corrected.

The script scores aorta, vena cava and esophagus only between the reference's lowest and highest slice, and leaves the
highest one out: an off-by-one. Since 2024-03-29 it gives an organ with a Dice below 0.2 an NSD of 0 as well. The
protocols `2022` (the challenge's own, June 2022) and `2024` (the script since then) keep both as they are, for figures
to set beside theirs; `fixed` has neither.

Source: the challenge's rules (https://flare22.grand-challenge.org) and evaluation script, as facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ragsam.metrics.overlap import Mask, dice
from ragsam.metrics.scoring import entry, status_of, volumes
from ragsam.metrics.surface_elements import nsd

SCORED = ("dice", "nsd")
TOLERANCES_MM = {
    "liver": 5.0, "right_kidney": 3.0, "spleen": 3.0, "pancreas": 5.0, "aorta": 2.0, "inferior_vena_cava": 2.0,
    "right_adrenal_gland": 2.0, "left_adrenal_gland": 2.0, "gallbladder": 2.0, "esophagus": 3.0, "stomach": 5.0,
    "duodenum": 7.0, "left_kidney": 3.0,
}  # fmt: skip
#: Below this Dice the script of 2024 gives no NSD.
LEAST_DICE_2024 = 0.2
BETWEEN_SLICES = ("aorta", "inferior_vena_cava", "esophagus")

_RULES = (
    "FLARE22 scores Dice and NSD; no other metric is part of it.",
    "NSD: the share of both surfaces' area within the organ's tolerance of the other surface, as DeepMind's "
    "surface-distance; the tolerances are the challenge's, whatever the card says.",
    "Distances are measured by the header's voxel sizes, as the script does.",
    "Absent (in neither): Dice 1, NSD 1; it counts. So does an organ that no reference has.",
    "False positive (predicted, not in the reference): Dice 0, NSD 0; it counts.",
    "Missed (in the reference, not predicted): Dice 0, NSD 0; it counts.",
)
_SLICES = "Aorta, inferior vena cava and esophagus: only slices (of the file's third axis) from the reference's lowest"
_SCRIPT_SLICES = (
    f"{_SLICES} up to its highest, which is left out, as the challenge's own script does. Where the reference has "
    "them in one slice only, the script has no result (0/0); here that slice is scored."
)
RULES = {
    "2022": (
        "flare22, or flare22-2022: the challenge's own script of June 2022. The script of today is flare22-2024.",
        *_RULES,
        _SCRIPT_SLICES,
    ),
    "2024": (
        "flare22-2024: the script since 2024-03-29. The challenge's own figures are of flare22-2022.",
        *_RULES,
        f"An organ with a Dice below {LEAST_DICE_2024} has an NSD of 0.",
        _SCRIPT_SLICES,
    ),
    "fixed": (
        *_RULES,
        f"{_SLICES} to its highest, which is scored too. The challenge's own script leaves it out: these figures are "
        "not to be set beside the challenge's.",
    ),
}


def score_organ(
    reference: Mask,
    prediction: Mask,
    *,
    organ: str,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    penalty_mm: float,
    top_slice: bool,
    least_dice: float = 0.0,
) -> dict[str, Any]:
    """Score one organ of one case; arguments as of `ragsam.metrics.clinical.score_organ`.

    The challenge has tolerances of its own and no penalty. The status is that of the scored slices.

    Args:
        reference, prediction: [X, Y, Z], bool, in the file's own order of axes.
        organ: its name, which decides on the slices.
        top_slice: whether the reference's highest slice is scored where slices matter.
        least_dice: below it the NSD is 0.
    """
    measured = volumes(reference, prediction, spacing_mm)
    if organ in BETWEEN_SLICES and reference.any():
        slices = np.flatnonzero(reference.any(axis=(0, 1)))
        low, high = int(slices[0]), int(slices[-1])
        if top_slice or low == high:
            high += 1
        reference = reference[:, :, low:high]
        prediction = prediction[:, :, low:high]
    status = status_of(reference, prediction)
    if status == "absent":
        return entry(status, dice=1.0, nsd=1.0, **measured)
    # As the script compares: a distance that exceeds the tolerance by a rounding error is beyond it.
    share = nsd(reference, prediction, spacing_mm, TOLERANCES_MM[organ], rounding_mm=0.0)
    overlap = dice(reference, prediction)
    if overlap < least_dice:
        share = 0.0
    return entry(status, dice=overlap, nsd=share, **measured)


score_2022 = partial(score_organ, top_slice=False)
score_2024 = partial(score_organ, top_slice=False, least_dice=LEAST_DICE_2024)
score_fixed = partial(score_organ, top_slice=True)
