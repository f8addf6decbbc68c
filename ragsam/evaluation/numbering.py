"""Which numbers the label volumes of an evaluation have, found out before they are compared."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ragsam.data.cards.model import Card
from ragsam.data.checks.check_case import scan_volume
from ragsam.data.checks.label_counts import LabelCounts
from ragsam.data.checks.parallel import run_each
from ragsam.data.label_numbers import NUMBERINGS, possible_numberings, told_numbering
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair

logger = logging.getLogger(__name__)

_SHOWN = 10


def with_numbering(
    pairs: Sequence[CasePair],
    card: Card,
    *,
    labels: str | None = None,
    reference_labels: str | None = "card",
    jobs: int = 1,
) -> list[CasePair]:
    """Return pairs that know their volumes' numbers: `label_map` and `prediction_map` lead to the card's.

    Files that tell their numbers, and values that only one numbering has, decide; see `told_numbering`.

    Args:
        labels: the predictions' numbers, `card` or `raw`; None finds them out.
        reference_labels: the same of references without a label map.

    Raises:
        InputError: numbers that cannot be told and are not given, files of either, or of another card.
    """
    raw = next((pair.label_map for pair in pairs if pair.label_map is not None), None) or card.label_map
    open_references = [pair.reference for pair in pairs if pair.label_map is None]
    references, predictions = None, None
    if open_references:
        references = _map_of("references", open_references, card, card.label_map, reference_labels, jobs)
    if made := [pair.prediction for pair in pairs if pair.prediction is not None]:
        predictions = _map_of("predictions", made, card, raw, labels, jobs)
    numbered = []
    for pair in pairs:
        label_map = references if pair.label_map is None else pair.label_map
        numbered.append(replace(pair, label_map=label_map, prediction_map=predictions))
    return numbered


def _map_of(
    what: str,
    paths: Sequence[Path],
    card: Card,
    raw: Mapping[int, int] | None,
    given: str | None,
    jobs: int,
) -> Mapping[int, int] | None:
    """Return what leads from the values of volumes to the card's, None where they are the same."""
    option = "--reference-labels" if what == "references" else "--labels"
    told = {path: told_numbering(path, card) for path in paths}
    found = {numbering for numbering in told.values() if numbering is not None}
    if raw is None:
        return None
    if given is not None:
        if found - {given}:
            told_other = f"the files beside them tell the numbers are {min(found - {given})}"
            raise InputError(f"{what}: {option} {given}, but {told_other}; leave it out")
        return raw if given == "raw" else None
    silent = [path for path, numbering in told.items() if numbering is None]
    values = frozenset[int]()
    possible = frozenset(found or NUMBERINGS)
    for one in run_each(_values, silent, jobs=min(jobs, len(silent) or 1), crashed=lambda path: frozenset()):
        values |= one
        possible &= possible_numberings(one, card, raw) or possible  # of neither: told of the case when it is scored
    if len(found) > 1 or not possible:
        raise InputError(f"{what}: some have the card's numbers, others the data set's own; evaluate them apart")
    if len(possible) > 1 and all(raw.get(value) == value for value in values - {0}):
        return None
    if len(possible) > 1:
        shown = ", ".join(map(str, sorted(values)[:_SHOWN]))
        raise InputError(
            f"{what}: their values ({shown}) may be the numbers of card {card.name} or the data set's own; say which "
            f"with {option} card or {option} raw"
        )
    if possible == {"raw"}:
        logger.info("evaluate: the %s have the data set's own numbers, and are read by card %s", what, card.name)
        return raw
    return None


def _values(path: Path) -> frozenset[int]:
    """Return the values of a label volume; none of one that cannot be read, which is told when it is scored."""
    counts = LabelCounts()
    try:
        scan_volume(path, path.name, counts)
    except InputError:
        return frozenset()
    return frozenset(counts.voxels)
