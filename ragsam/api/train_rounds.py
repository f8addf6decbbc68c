"""Training in rounds, with volumes that nobody has labelled: each round learns from labels of the round before it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from ragsam.api.cross_validate import retrieves
from ragsam.api.index import index_run
from ragsam.api.pseudo_labels import DATALIST, LEAST_AGREEMENT, write_pseudo_labels
from ragsam.api.train import train_run
from ragsam.api.try_training import TrainingEstimate
from ragsam.api.unlabelled import unlabelled_cases
from ragsam.console.durations import duration
from ragsam.console.library_warnings import told_once
from ragsam.data.datalist import Case, load_datalist
from ragsam.errors import InputError
from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json
from ragsam.io.read_volume import open_volume
from ragsam.networks.checkpoints import load_metadata
from ragsam.outputs import Outputs
from ragsam.runs.run import WEIGHTS
from ragsam.runs.templates import require_free

logger = logging.getLogger(__name__)

ROUNDS = 3
RECORD_NAME = "rounds.json"
_SCORE = "val_mean_dice"
#: How often a volume is segmented in a round, at most: network and bank, the network alone, and three sizes of slices.
_LOOKS = 5


@told_once()
def train_rounds(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    unlabelled: Sequence[str | os.PathLike[str]],
    options: Mapping[str, Any] | None = None,
    *,
    rounds: int = ROUNDS,
    resume: bool = False,
) -> Path:
    """Train on the labelled cases, then in rounds with pseudo-labels too, until validation stops gaining.

    A round's labels are those of the best run so far, network and bank together, chosen by `write_pseudo_labels`; it
    trains from the start. The bank has the labelled cases alone, and validation and test are as ever.

    Args:
        output: gets the runs `round-0/` (labelled cases alone), `round-1/` and so on, the labels of each in
            `round-1-labels/`, and `rounds.json`.
        unlabelled: see `unlabelled_cases`.
        options: of every run.
        rounds: at most so many with pseudo-labels.
        resume: continue with what was begun there.

    Returns:
        The run with the best validation.

    Raises:
        InputError: as `train_run` or `unlabelled_cases`, no round, or an output that holds something and is not
            resumed.
    """
    place = Path(output)
    if rounds < 1:
        raise InputError(f"--rounds {rounds}: at least 1 is needed")
    if "pseudo_labels" in (options or {}):
        raise InputError("--set pseudo_labels: not with --unlabelled, which writes them itself")
    cases = unlabelled_cases(unlabelled, load_datalist(datalist))
    if not resume:
        require_free(place)
    logger.info("round 0: the labelled cases alone")
    best = train_run(bundle, datalist, place / "round-0", options, resume=resume)
    best_score = validation_of(best)
    record = [{"run": best.name, "validation": best_score, "pseudo_labels": None}]
    for number in range(1, rounds + 1):
        labels = _labels(best, cases, place / f"round-{number}-labels", resume=resume)
        if labels is None:
            break
        logger.info("round %d of %d at most: learns from labels of %s too", number, rounds, best.name)
        values = {**(options or {}), "pseudo_labels": str(labels)}
        run = train_run(bundle, datalist, place / f"round-{number}", values, resume=resume)
        pseudo = load_metadata(run / WEIGHTS)["pseudo_labels"]
        score = validation_of(run)
        record.append({"run": run.name, "validation": score, "pseudo_labels": pseudo})
        if score <= best_score:
            break
        best, best_score = run, score
    with Outputs.of_file(place / RECORD_NAME, overwrite=resume):
        write_json_atomic(place / RECORD_NAME, {"best": best.name, "rounds": record, "agreement": LEAST_AGREEMENT})
    return best


def rounds_table(path: str | os.PathLike[str]) -> list[str]:
    """Return the rounds of a `rounds.json` as lines for a person."""
    lines = []
    for entry in read_json(path)["rounds"]:
        pseudo = entry["pseudo_labels"]
        source = "labelled cases alone"
        if pseudo is not None:
            source = f"{pseudo['slices']} slices of {pseudo['volumes']} volumes with pseudo-labels too"
        lines.append(f"{entry['run']}: validation Dice {entry['validation']:.4f}, {source}")
    return lines


def validation_of(run: Path) -> float:
    """Return the validation score of a run's weights."""
    return float(load_metadata(run / WEIGHTS)[_SCORE])


def _labels(run: Path, cases: Sequence[Case], folder: Path, *, resume: bool) -> Path | None:
    """Return the datalist of a round's pseudo-labels, made by a run unless it is there; None if none can be used."""
    if resume and (folder / DATALIST).is_file():
        return folder / DATALIST
    retrieval = retrieves(run)
    if retrieval:
        index_run(run)
    return write_pseudo_labels(run, cases, folder, retrieval=retrieval, overwrite=resume).datalist


def rounds_lines(
    estimate: TrainingEstimate,
    datalist: str | os.PathLike[str],
    unlabelled: Sequence[str | os.PathLike[str]],
    rounds: int = ROUNDS,
) -> list[str]:
    """Return what the rounds take as lines for a person.

    Args:
        estimate: of a training on the labelled cases alone.
    """
    data = load_datalist(datalist)
    cases = unlabelled_cases(unlabelled, data)
    ratio = _voxels(cases) / _voxels(data.section("validation"))
    labelling_s = _LOOKS * ratio * estimate.validation_s
    patients = len({case.patient for case in cases})
    total_s = estimate.total_s + rounds * (labelling_s + estimate.total_s)
    labelling = duration(labelling_s)
    return [
        f"unlabelled: {len(cases)} volumes of {patients} patients; labelling them: at most {labelling} a round",
        f"{rounds} rounds at most, each labels them and trains again: about {duration(total_s)} in all, plus reading",
    ]


def _voxels(cases: Sequence[Case]) -> int:
    return sum(prod(open_volume(case.image, case.case).shape) for case in cases)
