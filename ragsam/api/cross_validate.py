"""Cross-validation by patient: a run a fold, and one evaluation of all, each by the run that never saw them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.console.library_warnings import told_once
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, Datalist, load_datalist, write_datalist
from ragsam.data.preparation.presence import organs_by_patient
from ragsam.data.preparation.splits import deal_folds
from ragsam.errors import InputError
from ragsam.evaluation.score_cases import pairs_from_cases
from ragsam.inference.evaluation import evaluation_warnings, report_evaluation
from ragsam.outputs import Outputs
from ragsam.runs.run import RunFolder
from ragsam.runs.templates import require_free

logger = logging.getLogger(__name__)


@told_once()
def cross_validate(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    folds: int,
    resume: bool = False,
) -> dict[str, Any]:
    """Train a run a fold, let each segment its own fold, and evaluate all of them as one.

    Dealt are the patients of the sections for training and validation, alike in the organs they have, or as the
    datalist has it, where each of its cases has a `fold`; the test patients are left alone.

    Args:
        output: gets `fold-0.json`, `fold-0/`, the run, `predictions-fold-0/`, and so on, and `evaluation/`.
        options: of every run.
        folds: how many.
        resume: continue with what was begun there.

    Returns:
        The content of `evaluation/metrics.json`.

    Raises:
        InputError: as `train_run` or `deal_folds`; an output that holds something and is not resumed.
    """
    place, data = Path(output), load_datalist(datalist)
    if not resume:
        require_free(place)
    card, fold_of, pairs = load_card(data.card), folds_of(data, folds), []
    for fold in range(folds):
        logger.info("fold %d of %d", fold + 1, folds)
        sections = fold_sections(data, fold_of, fold)
        own = place / f"fold-{fold}.json"
        begun = RunFolder.is_one(place / f"fold-{fold}", "train")  # perhaps by a version that kept no record
        with Outputs.of_file(own, reads=[datalist], overwrite=begun):
            write_datalist(own, data.card, sections)
        run = train_run(bundle, own, place / f"fold-{fold}", options, resume=resume)
        predictions, retrieval = place / f"predictions-fold-{fold}", retrieves(run)
        if retrieval:
            index_run(run)
        segment_with_run(run, [own], predictions, section="validation", retrieval=retrieval, overwrite=begun)
        pairs += pairs_from_cases(load_datalist(own).section("validation"), predictions)
    metrics = report_evaluation(pairs, card, place, place / "evaluation")
    for line in evaluation_warnings(metrics):
        logger.warning("evaluate: %s", line)
    return metrics


def folds_of(data: Datalist, folds: int) -> dict[str, int]:
    """Return the fold of every patient who is not for testing.

    Raises:
        InputError: as `deal_folds`; folds of the datalist that are not so many, or part a patient.
    """
    pool = _pool(data)
    told = {case.patient: case.extra["fold"] for case in pool if "fold" in case.extra}
    if len(told) < len({case.patient for case in pool}):
        annotated = any(case.annotated is not None for case in pool)
        return deal_folds(organs_by_patient(pool, load_card(data.card), told=annotated), folds, seed=0)
    if sorted(set(told.values())) != list(range(folds)):
        raise InputError(f"--folds {folds}: the datalist has {len(set(told.values()))} folds; ask for those")
    if parted := [case.case for case in pool if case.extra.get("fold") != told[case.patient]]:
        raise InputError(f"{parted[0]}: in a different fold from its patient's other cases; correct the datalist")
    return told


def fold_sections(data: Datalist, fold_of: Mapping[str, int], fold: int) -> dict[str, list[Case]]:
    """Return a datalist's sections with one fold for validation and the others for training."""
    pool = [replace(case, extra={**case.extra, "fold": fold_of[case.patient]}) for case in _pool(data)]
    return {
        "training": [case for case in pool if case.extra["fold"] != fold],
        "validation": [case for case in pool if case.extra["fold"] == fold],
        "test": list(data.sections.get("test", ())),
    }


def retrieves(run: Path) -> bool:
    """Whether a run was trained with retrieval."""
    config = RunFolder(run, "train").content("train")
    return bool(config["retrieval"] and config["fusion"])


def _pool(data: Datalist) -> Sequence[Case]:
    return [case for name in ("training", "validation") for case in data.sections.get(name, ())]
