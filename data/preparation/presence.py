"""Which organs a patient has, for folds that are alike."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

from ragsam.console.case_progress import CaseProgress
from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case

logger = logging.getLogger(__name__)


def organs_by_patient(cases: Sequence[Case], card: Card, *, told: bool = False) -> dict[str, frozenset[str]]:
    """Return the organs of every patient: those annotated where a case says so, else those in its label file.

    Label files are read in full, images are not; a bar shows how far it is. Where the annotation is `told`, a case
    without `annotated` has every organ, and no file is read.
    """
    # Volumes are read by MONAI, some seconds to import, which a data set without label files to read does not need.
    from ragsam.data.checks.check_case import scan_volume
    from ragsam.data.checks.label_counts import LabelCounts

    organs_of: defaultdict[str, set[str]] = defaultdict(set)
    unread = []
    for case in cases:
        organs = organs_of[case.patient]
        if case.annotated is not None:
            organs.update(case.annotated)
        elif told:
            organs.update(card.labels)
        elif case.label is not None:
            unread.append(case)
    if unread:
        logger.info("prepare: %d label files are read for the organs in them", len(unread))
    with CaseProgress("prepare", len(unread)) as progress:
        for number, case in enumerate(unread, start=1):
            counts = LabelCounts()
            scan_volume(case.label, f"{case.case} (label)", counts)
            present = counts.on_card(case.label_map).keys()
            organs_of[case.patient].update(name for name, value in card.labels.items() if value in present)
            progress(number)
    return {patient: frozenset(organs) for patient, organs in organs_of.items()}
