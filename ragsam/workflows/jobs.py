"""The jobs behind the commands: make a run and train it, index and segment with it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.data.cards import load_card
from ragsam.data.datalist import Case
from ragsam.data.validation import read_volume_checked
from ragsam.errors import InputError
from ragsam.report.training import CURVES_NAME, read_log, write_curves
from ragsam.workflows.bundle import find_bundle, make_run, run_config
from ragsam.workflows.dicom_seg import require_dicom, write_case_seg
from ragsam.workflows.inputs import cases_of_inputs, is_dicom, skipped_files
from ragsam.workflows.interrupted import can_resume, require_same_training
from ragsam.workflows.knobs import checked_knobs
from ragsam.workflows.resuming import remove_drafts
from ragsam.workflows.training_free import BUNDLE, segment_values

logger = logging.getLogger(__name__)

#: How a run looks at whole volumes, and how their labels are tidied.
SEGMENT_KNOBS = ("test_shift", "test_mirror", "test_scales", "keep_pieces", "fill_holes", "precision")


def train_run(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    knobs: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
) -> Path:
    """Make a run and train it; see `make_run`. Where bad input stops it before there are weights, no run is left.

    Args:
        resume: go on with the run of `output` after the last epoch that it finished; where there is none, begin.

    Raises:
        InputError: as `make_run`, a faulty case, or a run that was begun with other data or knobs.
    """
    run = Path(output)
    again, resume = resume, resume and can_resume(run)
    if resume:
        require_same_training(run, datalist, knobs or {})
        remove_drafts(run)
    else:
        make_run(bundle, datalist, output, knobs, again=again)
    try:
        run_config(run, "train", resume=resume)
    except InputError:
        if not (run / "models" / "model.safetensors").exists() and not can_resume(run):
            shutil.rmtree(run)
        raise
    write_curves(read_log(run / "log.csv"), run / CURVES_NAME)
    return run


def index_run(
    run: str | os.PathLike[str] | None,
    output: str | os.PathLike[str] | None = None,
    *,
    add: str | os.PathLike[str] | None = None,
    section: str = "training",
    data: str | os.PathLike[str] | None = None,
    knobs: Mapping[str, Any] | None = None,
) -> tuple[Path, int, int]:
    """Put the labelled slices of a run's training patients into a bank, or those of more patients beside them.

    Args:
        run: a trained run; None needs `output`, and `data` or `add`.
        output: folder of the bank; None takes the run's own `bank/`.
        add: datalist whose `section` is added to the bank that is there; nothing of that bank is encoded again.
        data, knobs: without a run, see `write_bank`.

    Returns:
        The folder, and how many slices of how many patients it holds.

    Raises:
        InputError: as `write_bank`.
    """
    from ragsam.workflows.indexing import write_bank

    folder = Path(output) if output else Path(run).absolute() / "bank"
    manifest = write_bank(run, folder, add=add, section=section, data=data, knobs=knobs)
    return folder, manifest["slices"], manifest["patients"]


def segment_with_run(
    run: str | os.PathLike[str] | None,
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    section: str = "test",
    card: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
    bank: str | os.PathLike[str] | None = None,
    retrieval: bool = True,
    series: Sequence[str] = (),
    dicom_seg: bool = False,
    ensemble: Sequence[str | os.PathLike[str]] = (),
    uncertainty: bool = False,
    probabilities: bool = False,
    knobs: Mapping[str, Any] | None = None,
) -> list[Case]:
    """Write a label volume for every input, on the input's own grid.

    Args:
        run: a trained run; None segments by the vote of a bank alone, see `ragsam.workflows.training_free`.
        inputs: volumes, DICOM folders, or datalists, of which `section` is taken. The case of a file or folder is its
            name without suffix; a case of that name in the bank is taken for the same patient and left out.
        output: folder for `CASE.nii.gz` and `retrieval.json`.
        card: without a run, of the bank's organs: a card's name, or the path of its yaml file.
        base: without a run, weights that the vote prompts; see `load_answering`.
        bank: folder of the bank; None takes the run's own.
        retrieval: False segments without the bank.
        series: Series Instance UIDs to take from DICOM folders that hold several.
        dicom_seg: write `CASE.seg.dcm` too, a DICOM segmentation of the case's series.
        ensemble: other runs, of the same card, whose probabilities are averaged with this one's.
        uncertainty: write `uncertainty/CASE.nii.gz` too, the entropy of the classes' probabilities, 0 to 1.
        probabilities: write `probabilities/CASE/ORGAN.nii.gz` too.
        knobs: values of `SEGMENT_KNOBS`, for this time; None leaves the run's own.

    Returns:
        The segmented cases.

    Raises:
        InputError: two inputs of one name, a bank that does not fit the run, `dicom_seg` with an input that is not
            DICOM, an unknown knob, or another run that is none or for other organs; and, once the other inputs are
            segmented, an input that cannot be read.
    """
    cases = cases_of_inputs(inputs, section=section, series=series)
    bundle = find_bundle(BUNDLE) if run is None else Path(run)
    overrides: dict[str, Any] = {"output_dir": str(Path(output).absolute()), "retrieval": retrieval}
    overrides |= _segment_knobs(bundle, knobs or {})
    if run is None:
        overrides |= segment_values(card, bank, base)
    if dicom_seg:
        require_dicom(cases)
    faults = {case.case: fault for case in cases if (fault := _fault(case))}
    sound = [case for case in cases if case.case not in faults]
    if not sound:
        raise InputError(_told(list(faults.values()), 0))
    for case in filter(is_dicom, sound):
        if skipped := skipped_files(case):
            logger.info("segment: %s: %d files of the folder are no DICOM images; left out", case.case, skipped)
    if bank is not None:
        overrides["bank"] = str(Path(bank).absolute())
    others = [str(Path(other).absolute()) for other in ensemble]
    maps = {"uncertainty": uncertainty, "probabilities": probabilities}
    run_config(bundle, "inference", cases=sound, ensemble=others, **maps, **overrides)
    if dicom_seg:
        named = load_card(bundle / "configs" / "card.yaml" if run is not None else card)
        for case in sound:
            try:
                write_case_seg(Path(output), case, named)
            except InputError as error:
                faults[case.case] = str(error)
    if faults:
        raise InputError(_told(list(faults.values()), len(sound)))
    return sound


def _segment_knobs(bundle: Path, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the knobs that may be set when a run segments, each of the right kind."""
    if unknown := sorted(set(knobs) - set(SEGMENT_KNOBS)):
        raise InputError(f"--set {unknown[0]}: no knob of segmenting; there are {', '.join(SEGMENT_KNOBS)}")
    config = bundle / "configs" / "inference.yaml"
    return checked_knobs(config.read_text(encoding="utf-8"), knobs) if knobs and config.is_file() else {}


def _fault(case: Case) -> str | None:
    """Return what is wrong with a case's image."""
    try:
        read_volume_checked(case.image, case.case, fill_nonfinite=case.fill_nonfinite)
    except InputError as error:
        return str(error)
    return None


def _told(faults: Sequence[str], segmented: int) -> str:
    """Return the first fault's line, with how many more there are and how many inputs were segmented."""
    more = [f"{len(faults) - 1} more at fault"] if len(faults) > 1 else []
    more += [f"{segmented} segmented"] if segmented else []
    return faults[0] + (f" ({', '.join(more)})" if more else "")
