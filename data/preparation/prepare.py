"""From the official layout of a data set to a datalist, split by patient. No voxel is copied."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ragsam.data.cards.load import load_card
from ragsam.data.cards.model import LAYOUTS, Card
from ragsam.data.datalist import Case, write_datalist
from ragsam.data.label_numbers import check_numbering
from ragsam.data.preparation.files import Pair, with_series
from ragsam.data.preparation.layouts import detect_layout, read_layout
from ragsam.data.preparation.presence import organs_by_patient
from ragsam.data.preparation.splits import deal_folds, split_cases
from ragsam.data.preparation.tables import Rows, annotated_organs, patients_of
from ragsam.errors import InputError
from ragsam.outputs import Outputs

logger = logging.getLogger(__name__)


def prepare(
    card_name: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    layout: str | None = None,
    seed: int = 0,
    validation: int | None = None,
    test: int | None = None,
    folds: int | None = None,
    fold: int = 0,
    subjects: str | os.PathLike[str] | None = None,
    series: Sequence[str] = (),
    labels: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a datalist for a data set as it was downloaded.

    Args:
        card_name: a card's name, or the path of a card's yaml file.
        source: the data set's folder; it is only read.
        output: the datalist to write, anywhere; it is returned.
        layout: how the folder is laid out, one of `ragsam.data.cards.model.LAYOUTS`; None: found out.
        seed: of the split, or of the folds.
        validation: number of patients; None: as the card says, a tenth where it says nothing.
        test: number of patients; None: as the card says, a fifth where it says nothing, none with folds.
        folds: deal all but the test patients to so many folds, stratified by organ presence. Every case then has its
            `fold`; `fold` is for validation and the others for training.
        fold: from 0.
        subjects: table with the columns `case,patient` (or `case,inferred_subject`). None: `subjects.csv` in
            `source` if there is one, else the card's patient rule.
        series: UIDs of the series to take from DICOM folders that hold several.
        labels: the label files' numbers, `raw` (the data set's own) or `card`; None finds them out where the card's
            differ, which reads the files.
        overwrite: replace a file that is not the package's own, see `Outputs`.

    Raises:
        InputError: unknown or ambiguous layout or label numbers, image without label or label without image, a case
            whose patient is not known, a DICOM folder of several series, too few patients for the split, or invalid
            folds.

    Examples:
        >>> import ragsam
        >>> ragsam.prepare("hippocampus", "Task04_Hippocampus", "list.json", validation=1, test=1).name
        'list.json'
    """
    card = load_card(card_name)
    check_numbering(labels)
    source = Path(os.path.abspath(source))
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"--layout {layout}: no such layout; choose one of {', '.join(LAYOUTS)}")
    _check_folds(folds, fold, validation)
    layout = layout or detect_layout(source, card)
    found = read_layout(source, layout, card)
    pairs = with_series(found.pairs, series)
    table = None if subjects is None else Path(subjects)
    read = [pair.image for pair in pairs] + [pair.label for pair in pairs]
    with Outputs.of_file(output, reads=[card_name, *filter(None, (subjects,)), *read], overwrite=overwrite):
        patients = patients_of([pair.case for pair in pairs], card, source, table=table, rows=found.rows)
        annotated = {case: annotated_organs(case, row, card) for case, row in (found.rows or {}).items()}
        label_map = _label_map(pairs, card, labels)
        cases = []
        for pair in pairs:
            organs = annotated.get(pair.case)
            cases.append(Case(pair.case, patients[pair.case], pair.image, pair.label, organs, label_map=label_map))
        if folds is None:
            sections = split_cases(cases, card, seed=seed, validation=validation, test=test, rows=found.rows)
        else:
            sections = _folded(cases, card, folds, fold, seed=seed, test=test, rows=found.rows)
        write_datalist(output, card_name, sections)
    left_out = f"; {found.left_out} images without label left out" if found.left_out else ""
    logger.info("prepare: layout %s, %d cases%s", layout, len(pairs), left_out)
    return Path(output)


def _label_map(pairs: Sequence[Pair], card: Card, labels: str | None) -> Mapping[int, int] | None:
    """Return what leads from the label files' values to the card's; None if they are the same."""
    if card.label_map is None or labels == "card":
        return None
    # Volumes are read by MONAI, some seconds to import, which most data sets do not need here.
    from ragsam.data.checks.find_numbering import find_numbering
    from ragsam.data.checks.parallel import cores

    if labels is None:
        logger.info("prepare: %d label files are read for their numbers, which --labels raw spares", len(pairs))
    way_out = "say which with --labels card or --labels raw"
    paths = [pair.label for pair in pairs]
    found = find_numbering(paths, card, card.label_map, what="labels", way_out=way_out, given=labels, jobs=cores())
    return None if found == "card" else card.label_map


def _check_folds(folds: int | None, fold: int, validation: int | None) -> None:
    if folds is None:
        if fold != 0:
            raise InputError(f"--fold {fold}: of how many? give --folds too")
        return
    if validation is not None:
        raise InputError("--validation: with --folds one fold is for validation; leave one of them out")
    if not 0 <= fold < folds:
        raise InputError(f"--fold {fold}: folds are counted from 0; take a number below {folds}")


def _folded(
    cases: Sequence[Case], card: Card, folds: int, fold: int, *, seed: int, test: int | None, rows: Rows | None
) -> dict[str, list[Case]]:
    if test is None and card.split is None:
        test = 0
    sections = split_cases(cases, card, seed=seed, validation=0, test=test, rows=rows)
    pool = sections["training"]
    fold_of = deal_folds(organs_by_patient(pool, card, told=rows is not None), folds, seed=seed)
    dealt: dict[str, list[Case]] = {"training": [], "validation": [], "test": sections["test"]}
    for case in pool:
        own_fold = fold_of[case.patient]
        section = "validation" if own_fold == fold else "training"
        dealt[section].append(replace(case, extra={**case.extra, "fold": own_fold}))
    return dealt
