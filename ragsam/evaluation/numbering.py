"""Which numbers the label volumes of an evaluation have, found out before they are compared."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ragsam.data.cards.model import Card
from ragsam.data.checks.find_numbering import find_numbering
from ragsam.evaluation.case_pairs import CasePair

logger = logging.getLogger(__name__)


def with_numbering(
    pairs: Sequence[CasePair],
    card: Card,
    *,
    labels: str | None = None,
    reference_labels: str | None = "card",
    jobs: int = 1,
) -> list[CasePair]:
    """Return pairs that know their volumes' numbers: `label_map` and `prediction_map` lead to the card's.

    Args:
        labels: the predictions' numbers, `card` or `raw`; None finds them out, see `find_numbering`.
        reference_labels: the same of references without a label map.

    Raises:
        InputError: as `find_numbering`.
    """
    raw = next((pair.label_map for pair in pairs if pair.label_map is not None), None) or card.label_map
    references = [pair.reference for pair in pairs if pair.label_map is None]
    predictions = [pair.prediction for pair in pairs if pair.prediction is not None]
    reference_map = _map_of("reference", references, card, card.label_map, reference_labels, jobs)
    prediction_map = _map_of("prediction", predictions, card, raw, labels, jobs)
    numbered = []
    for pair in pairs:
        label_map = reference_map if pair.label_map is None else pair.label_map
        numbered.append(replace(pair, label_map=label_map, prediction_map=prediction_map))
    return numbered


def _map_of(
    kind: str, paths: Sequence[Path], card: Card, raw: Mapping[int, int] | None, given: str | None, jobs: int
) -> Mapping[int, int] | None:
    """Return what leads from the values of volumes to the card's, None if they are the same."""
    option = "--reference-labels" if kind == "reference" else "--labels"
    way_out = f"say which with {option} card or {option} raw"
    found = find_numbering(paths, card, raw, what=f"{kind}s", way_out=way_out, given=given, jobs=jobs)
    if found != "raw":
        return None
    logger.info("evaluate: the %ss have the data set's own numbers, and are read by card %s", kind, card.name)
    return raw
