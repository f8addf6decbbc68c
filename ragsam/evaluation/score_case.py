"""The scores of one case, and what is wrong with its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.evaluation.read_labels import LabelVolume, geometry_fault, read_labels
from ragsam.metrics.boxes import common_boxes
from ragsam.metrics.protocols import PROTOCOLS, Protocol
from ragsam.metrics.scoring import entry
from ragsam.metrics.surface import diagonal_mm


def evaluated(pair: CasePair, *, card: Card, protocol: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the organs' scores, None where the reference cannot be used, and the faults of one case."""
    try:
        return _evaluate_case(pair, card, PROTOCOLS[protocol])
    except InputError as error:
        return None, [str(error)]


def crashed(pair: CasePair) -> tuple[None, list[str]]:
    """Return what `evaluated` would, of a case whose process died."""
    return None, [f"{pair.case}: its process died, for want of memory perhaps; evaluate it on a larger machine"]


def _evaluate_case(pair: CasePair, card: Card, protocol: Protocol) -> tuple[dict[str, Any], list[str]]:
    """Return the organs' scores and the faults of one case.

    Raises:
        InputError: where the reference cannot be used.
    """
    reference = read_labels(pair.reference, f"{pair.case} (reference)", label_map=pair.label_map)
    faults = _unknown_values(reference, card, f"{pair.case} (reference)")
    prediction = None
    if pair.prediction is None:
        faults.append(f"{pair.case}: no prediction; scored as missed, segment the case and evaluate again")
    else:
        try:
            prediction = read_labels(pair.prediction, f"{pair.case} (prediction)")
        except InputError as error:
            faults.append(f"{error}; scored as missed")
    if prediction is not None:
        if fault := geometry_fault(reference, prediction):
            faults.append(f"{pair.case}: {fault}; scored as missed, bring the prediction onto the image's own grid")
            prediction = None
        else:
            faults.extend(_unknown_values(prediction, card, f"{pair.case} (prediction)"))
    return _score_organs(reference, prediction, card, pair.annotated, protocol), faults


def _score_organs(
    reference: LabelVolume,
    prediction: LabelVolume | None,
    card: Card,
    annotated: Sequence[str] | None,
    protocol: Protocol,
) -> dict[str, Any]:
    """Return {organ: scores} of a case in the card's order."""
    penalty_mm = diagonal_mm(reference.labels.shape, reference.spacing_mm)
    volumes = [volume.labels for volume in (reference, prediction) if volume is not None]
    boxes = common_boxes(volumes, max(organ.value for organ in card.organs))
    nowhere = (slice(0, 0),) * 3
    organs = {}
    for organ in card.organs:
        box = boxes.get(organ.value, nowhere)
        masks = [labels[box] == organ.value for labels in volumes]
        scores = protocol.score(
            masks[0],
            masks[1] if prediction is not None else np.zeros_like(masks[0]),
            organ=organ.name,
            spacing_mm=reference.spacing_mm,
            tolerance_mm=organ.tolerance_mm,
            penalty_mm=penalty_mm,
        )
        if annotated is not None and organ.name not in annotated:
            scores = entry("not_annotated", measured={"volume_prediction_ml": scores["volume_prediction_ml"]})
        if prediction is None:
            scores |= {"volume_prediction_ml": None, "volume_difference_ml": None}
        organs[organ.name] = scores
    return organs


def _unknown_values(volume: LabelVolume, card: Card, name: str) -> list[str]:
    """Return the fault line of label values that are not on the card, if there are any."""
    if volume.labels.min() >= 0 and volume.labels.max() <= len(card.organs):  # a card's values are 1..K
        return []
    unknown = np.unique(volume.labels[(volume.labels < 0) | (volume.labels > len(card.organs))]).tolist()
    values = ", ".join(map(str, unknown[:8])) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
    allowed = f"card {card.name} (0-{len(card.organs)})"
    return [f"{name}: label {values} is not on {allowed}; left out, relabel or change the card"]
