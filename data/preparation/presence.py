"""Which organs a patient has, for folds that are alike."""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Sequence

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case

logger = logging.getLogger(__name__)


def organs_by_patient(cases: Sequence[Case], card: Card, *, told: bool = False) -> dict[str, frozenset[str]]:
    """Return the organs of every patient: those annotated where a case says so, else those in its label file.

    Args:
        cases: each with a label. Label files are read in full, images are not; a bar shows how far it is.
        card: names the organs.
        told: a case without `annotated` is known to annotate every organ; no file is read.

    Raises:
        InputError: a label file that cannot be read.
    """
    from tqdm import tqdm

    found: defaultdict[str, set[str]] = defaultdict(set)
    unread = [] if told else [case for case in cases if case.annotated is None and case.label is not None]
    if unread:
        logger.info("prepare: %d label files are read for the organs in them", len(unread))
    for case in tqdm(unread, desc="prepare", unit="label", disable=not sys.stderr.isatty()):
        found[case.patient] |= _organs_in(case, card)
    for case in cases:
        found[case.patient] |= set(card.labels if told and case.annotated is None else case.annotated or ())
    return {patient: frozenset(organs) for patient, organs in found.items()}


def _organs_in(case: Case, card: Card) -> set[str]:
    from ragsam.data.checks.check_case import scan_volume
    from ragsam.data.checks.label_counts import LabelCounts

    counts = LabelCounts()
    scan_volume(case.label, f"{case.case} (label)", counts)
    on_card = counts.on_card(case.label_map)
    return {organ.name for organ in card.organs if on_card.get(organ.value)}
