"""The protocol of the FLARE 2022 challenge: Dice and NSD of 13 organs, as its own script counts them, and mended.

The script scores aorta, vena cava and esophagus only between the reference's lowest and highest slice, and leaves the
highest one out: an off-by-one. `official` keeps it, for figures to set beside the challenge's; `fixed` does not.

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
BETWEEN_SLICES = ("aorta", "inferior_vena_cava", "esophagus")

_RULES = (
    "FLARE22 scores Dice and NSD; no other metric is part of it.",
    "NSD: the share of both surfaces' area within the organ's tolerance of the other surface, as DeepMind's "
    "surface-distance; the tolerances are the challenge's, whatever the card says.",
    "Absent (in neither): Dice 1, NSD 1; it counts. So does an organ that no reference has.",
    "False positive (predicted, not in the reference): Dice 0, NSD 0; it counts.",
    "Missed (in the reference, not predicted): Dice 0, NSD 0; it counts.",
)
_SLICES = "Aorta, inferior vena cava and esophagus: only slices (of the file's third axis) from the reference's lowest"
RULES = {
    "official": (
        *_RULES,
        f"{_SLICES} up to its highest, which is left out, as the challenge's own script does. Where the reference has "
        "them in one slice only, the script has no result (0/0); here that slice is scored.",
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
) -> dict[str, Any]:
    """Score one organ of one case; arguments as of `ragsam.metrics.clinical.score_organ`.

    The challenge has tolerances of its own and no penalty. The status is that of the scored slices.

    Args:
        reference, prediction: [X, Y, Z], bool, in the file's own order of axes.
        organ: its name, which decides on the slices.
        top_slice: whether the reference's highest slice is scored where slices matter.
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
    return entry(status, dice=overlap, nsd=share, **measured)


score_official = partial(score_organ, top_slice=False)
score_fixed = partial(score_organ, top_slice=True)
