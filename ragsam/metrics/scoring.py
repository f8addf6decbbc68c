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

from collections.abc import Sequence
from typing import Any

import numpy as np

from ragsam.metrics.nearest import ROUNDING_MM
from ragsam.metrics.overlap import Mask, dice, iou, volume_ml
from ragsam.metrics.surface import assd_mm, hd95_mm, hd95_pooled_mm, hd_mm, surface_distances
from ragsam.metrics.surface_elements import element_distances, hd95_area_mm, share_within

#: What the report's tables show; the others are in metrics.json and metrics.csv beside them.
METRICS = ("dice", "nsd", "hd95_mm", "assd_mm")
ALL_METRICS = ("dice", "iou", "nsd", "hd95_mm", "hd95_pooled_mm", "hd95_area_mm", "hd_mm", "assd_mm")
SHARES = ("dice", "iou", "nsd")
DISTANCES = ("hd95_mm", "hd95_pooled_mm", "hd95_area_mm", "hd_mm", "assd_mm", "hd95_voxels")
LOWER_IS_BETTER = DISTANCES
VOLUMES = ("volume_reference_ml", "volume_prediction_ml", "volume_difference_ml")


def status_of(reference: Mask, prediction: Mask) -> str:
    """Return ok, missed, false_positive or absent."""
    there = bool(reference.any()), bool(prediction.any())
    return {
        (True, True): "ok",
        (True, False): "missed",
        (False, True): "false_positive",
        (False, False): "absent",
    }[there]


def measure(
    reference: Mask, prediction: Mask, *, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float | None]:
    """Measure two masks that both have voxels, by all of `ALL_METRICS`; arguments as of a protocol's score."""
    distances = surface_distances(reference, prediction, spacing_mm)
    elements = element_distances(reference, prediction, spacing_mm)
    return {
        "dice": dice(reference, prediction),
        "iou": iou(reference, prediction),
        "nsd": share_within(elements, tolerance_mm + ROUNDING_MM),
        "hd95_mm": hd95_mm(distances),
        "hd95_pooled_mm": hd95_pooled_mm(distances),
        "hd95_area_mm": hd95_area_mm(elements),
        "hd_mm": hd_mm(distances),
        "assd_mm": assd_mm(distances),
    }


def penalty(distance_mm: float) -> dict[str, float]:
    """Return the worst score: no overlap, and a stated distance."""
    return dict.fromkeys(ALL_METRICS, distance_mm) | dict.fromkeys(SHARES, 0.0)


def volumes(reference: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Return both masks' volumes in ml, and the prediction's minus the reference's."""
    reference_ml = volume_ml(np.count_nonzero(reference), spacing_mm)
    prediction_ml = volume_ml(np.count_nonzero(prediction), spacing_mm)
    return dict(zip(VOLUMES, (reference_ml, prediction_ml, prediction_ml - reference_ml), strict=True))


def entry(status: str, **values: float | None) -> dict[str, Any]:
    """Return an organ's entry in metrics.json: None for each score and volume that is not given, never NaN."""
    return {"status": status} | dict.fromkeys((*ALL_METRICS, *VOLUMES)) | values
