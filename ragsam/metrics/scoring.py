"""One organ of one case: what is measured, and what stands where nothing can be.

| status | reference | prediction |
|---|---|---|
| ok | there | there |
| missed | there | empty, or no usable file |
| false_positive | empty | there |
| absent | empty | empty |
| not_annotated | unknown | any |

What counts how is a protocol's choice; see `ragsam.metrics.protocols`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.metrics.overlap import dice, iou, volume_ml
from ragsam.metrics.surface import assd_mm, hd95_mm, hd95_pooled_mm, hd_mm, surface_distances
from ragsam.metrics.surface_elements import nsd

#: What the report's tables show; the others are in metrics.json and metrics.csv beside them.
METRICS = ("dice", "nsd", "hd95_mm", "assd_mm")
ALL_METRICS = ("dice", "iou", "nsd", "hd95_mm", "hd95_pooled_mm", "hd_mm", "assd_mm")
SHARES = ("dice", "iou", "nsd")
DISTANCES = ("hd95_mm", "hd95_pooled_mm", "hd_mm", "assd_mm", "hd95_voxels")
LOWER_IS_BETTER = DISTANCES
VOLUMES = ("volume_reference_ml", "volume_prediction_ml", "volume_difference_ml")

Mask = NDArray[np.bool_]


def status_of(reference: Mask, prediction: Mask) -> str:
    """Return ok, missed, false_positive or absent."""
    there = bool(reference.any()), bool(prediction.any())
    return {(True, True): "ok", (True, False): "missed", (False, True): "false_positive"}.get(there, "absent")


def measure(
    reference: Mask, prediction: Mask, *, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float | None]:
    """Measure two masks that both have voxels, by all of `ALL_METRICS`.

    Args:
        reference, prediction: [X, Y, Z], bool; both may be cropped alike, as long as nothing of either is cut off.
        spacing_mm: (3,), mm, array order.
        tolerance_mm: of the NSD.
    """
    distances = surface_distances(reference, prediction, spacing_mm)
    return {
        "dice": dice(reference, prediction),
        "iou": iou(reference, prediction),
        "nsd": nsd(reference, prediction, spacing_mm, tolerance_mm),
        "hd95_mm": hd95_mm(distances),
        "hd95_pooled_mm": hd95_pooled_mm(distances),
        "hd_mm": hd_mm(distances),
        "assd_mm": assd_mm(distances),
    }


def penalty(distance_mm: float) -> dict[str, float]:
    """Return the worst score: no overlap, and a stated distance."""
    return {metric: 0.0 if metric in SHARES else distance_mm for metric in ALL_METRICS}


def volumes(reference: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Return both masks' volumes in ml, and the prediction's minus the reference's."""
    first, second = (volume_ml(np.count_nonzero(mask), spacing_mm) for mask in (reference, prediction))
    return dict(zip(VOLUMES, (first, second, second - first), strict=True))


def entry(
    status: str, scores: Mapping[str, float | None] | None = None, measured: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return an organ's entry in metrics.json: None for each score and volume that is not given, never NaN."""
    nothing = dict.fromkeys((*ALL_METRICS, *VOLUMES))
    return {"status": status} | nothing | dict(scores or {}) | dict(measured or {})
