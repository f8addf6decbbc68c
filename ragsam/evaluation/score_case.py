"""The scores of one case, and what is wrong with its files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.evaluation.read_labels import LabelVolume, on_grid_of, read_labels
from ragsam.io.grids import OtherGridError
from ragsam.metrics.boxes import common_boxes
from ragsam.metrics.protocols import PROTOCOLS, Protocol
from ragsam.metrics.scoring import entry
from ragsam.metrics.surface import diagonal_mm

logger = logging.getLogger(__name__)

_NAMED_VALUES = 8


def evaluated(pair: CasePair, *, card: Card, protocol: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the organs' scores, None if the reference cannot be used, and the faults of one case."""
    name = f"{pair.case} (reference)"
    try:
        reference = read_labels(pair.reference, name, label_map=pair.label_map)
    except InputError as error:
        return None, [str(error)]
    faults = _unknown_values(reference, card, name)
    prediction = _read_prediction(pair, reference, card, faults)
    scores = _score_organs(reference, prediction, card, pair.annotated, PROTOCOLS[protocol])
    return scores, faults


def crashed(pair: CasePair) -> tuple[None, list[str]]:
    """Return what `evaluated` would, of a case whose process died."""
    return None, [f"{pair.case}: its process died, for want of memory perhaps; evaluate it on a larger machine"]


def _read_prediction(pair: CasePair, reference: LabelVolume, card: Card, faults: list[str]) -> LabelVolume | None:
    """Return the prediction, None if it cannot be used; what is wrong with it joins the faults."""
    if pair.prediction is None:
        faults.append(f"{pair.case}: no prediction; scored as missed, segment the case and evaluate again")
        return None
    name = f"{pair.case} (prediction)"
    try:
        prediction = read_labels(pair.prediction, name, label_map=pair.prediction_map)
    except InputError as error:
        faults.append(f"{error}; scored as missed")
        return None
    try:
        placed = on_grid_of(reference, prediction)
    except OtherGridError as error:
        where = f"the prediction is not on the reference's grid, {error}"
        faults.append(f"{pair.case}: {where}; scored as missed, bring it onto the image's own grid")
        return None
    if placed is not prediction:
        logger.info("evaluate: %s: its axes are ordered differently from the reference's; it is reoriented", name)
    faults += _unknown_values(placed, card, name)
    return placed


def _score_organs(
    reference: LabelVolume,
    prediction: LabelVolume | None,
    card: Card,
    annotated: Sequence[str] | None,
    protocol: Protocol,
) -> dict[str, Any]:
    """Return {organ: scores} of a case in the card's order."""
    spacing_mm = reference.zooms_mm if protocol.by_zooms else reference.spacing_mm
    penalty_mm = diagonal_mm(reference.labels.shape, spacing_mm)
    predicted = np.zeros_like(reference.labels)
    if prediction is not None:
        predicted = prediction.labels
    boxes = common_boxes([reference.labels, predicted], card.num_classes)
    nowhere = (slice(0, 0),) * 3
    organs = {}
    for organ in card.organs:
        box = boxes.get(organ.value, nowhere)
        scores = protocol.score(
            reference.labels[box] == organ.value,
            predicted[box] == organ.value,
            organ=organ.name,
            spacing_mm=spacing_mm,
            tolerance_mm=organ.tolerance_mm,
            penalty_mm=penalty_mm,
        )
        if annotated is not None and organ.name not in annotated:
            scores = entry("not_annotated", volume_prediction_ml=scores["volume_prediction_ml"])
        if prediction is None:
            scores |= {"volume_prediction_ml": None, "volume_difference_ml": None}
        organs[organ.name] = scores
    return organs


def _unknown_values(volume: LabelVolume, card: Card, name: str) -> list[str]:
    """Return the fault line of label values that are not on the card, if there are any."""
    labels = volume.labels
    highest = card.num_classes  # a card's values are 1..K
    if labels.min() >= 0 and labels.max() <= highest:
        return []
    unknown = np.unique(labels[(labels < 0) | (labels > highest)]).tolist()
    values = ", ".join(map(str, unknown[:_NAMED_VALUES]))
    if len(unknown) > _NAMED_VALUES:
        values += f" and {len(unknown) - _NAMED_VALUES} more"
    allowed = f"card {card.name} (0-{highest})"
    return [f"{name}: label {values} is not on {allowed}; left out, relabel or change the card"]
