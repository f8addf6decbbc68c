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
from ragsam.workflows.bundle import make_run, require_plain, root_cause, run_config
from ragsam.workflows.dicom_seg import require_dicom, write_case_seg
from ragsam.workflows.inputs import cases_of_inputs, is_dicom, skipped_files

logger = logging.getLogger(__name__)


def train_run(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    knobs: Mapping[str, Any] | None = None,
) -> Path:
    """Make a run and train it; see `make_run`. Where bad input stops it before there are weights, no run is left.

    Raises:
        InputError: as `make_run`, or a faulty case.
    """
    run = make_run(bundle, datalist, output, knobs)
    try:
        run_config(run, "train")
    except InputError:
        if not (run / "models" / "model.safetensors").exists():
            shutil.rmtree(run)
        raise
    return run


def index_run(run: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> tuple[Path, int, int]:
    """Put the labelled slices of a run's training patients into a bank.

    Args:
        run: a trained run.
        output: folder of the bank; None takes the run's own `bank/`.

    Returns:
        The folder, and how many slices of how many patients it holds.

    Raises:
        InputError: no trained run, or training data that cannot be read.
    """
    from monai.bundle import ConfigParser

    from ragsam.workflows.checkpoint_handler import WeightsLoader
    from ragsam.workflows.retrieval_handler import build_bank

    root = Path(run).absolute()
    config = root / "configs" / "train.yaml"
    if not config.is_file():
        raise InputError(f"{run}: not a run (no configs/train.yaml); make one with `ragsam train`")
    require_plain(root)
    parser = ConfigParser()
    parser.read_config(str(config))
    parser["bundle_root"] = str(root)
    get = parser.get_parsed_content
    try:
        WeightsLoader(get("network"), get("weights")).load()
        bank = build_bank(get("retriever"), get("network"), get("train#dataset"), get("preparation"))
    except Exception as error:
        raise root_cause(error) from error
    folder = Path(output) if output else root / "bank"
    bank.save(folder)
    return folder, len(bank), len(set(bank.patients))


def segment_with_run(
    run: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    section: str = "test",
    bank: str | os.PathLike[str] | None = None,
    retrieval: bool = True,
    series: Sequence[str] = (),
    dicom_seg: bool = False,
) -> list[Case]:
    """Write a label volume for every input, on the input's own grid.

    Args:
        inputs: volumes, DICOM folders, or datalists, of which `section` is taken. The case of a file or folder is its
            name without suffix; a case of that name in the bank is taken for the same patient and left out.
        output: folder for `CASE.nii.gz` and `retrieval.json`.
        bank: folder of the bank; None takes the run's own.
        retrieval: False segments without the bank.
        series: Series Instance UIDs to take from DICOM folders that hold several.
        dicom_seg: write `CASE.seg.dcm` too, a DICOM segmentation of the case's series.

    Returns:
        The segmented cases.

    Raises:
        InputError: two inputs of one name, a bank that does not fit the run, or `dicom_seg` with an input that is not
            DICOM; and, once the other inputs are segmented, an input that cannot be read.
    """
    cases = cases_of_inputs(inputs, section=section, series=series)
    if dicom_seg:
        require_dicom(cases)
    faults = {case.case: fault for case in cases if (fault := _fault(case))}
    sound = [case for case in cases if case.case not in faults]
    if not sound:
        raise InputError(_told(list(faults.values()), 0))
    for case in filter(is_dicom, sound):
        if skipped := skipped_files(case):
            logger.info("segment: %s: %d files of the folder are no DICOM images; left out", case.case, skipped)
    overrides: dict[str, Any] = {"cases": sound, "output_dir": str(Path(output).absolute()), "retrieval": retrieval}
    if bank is not None:
        overrides["bank"] = str(Path(bank).absolute())
    run_config(run, "inference", **overrides)
    if dicom_seg:
        card = load_card(Path(run) / "configs" / "card.yaml")
        for case in sound:
            try:
                write_case_seg(Path(output), case, card)
            except InputError as error:
                faults[case.case] = str(error)
    if faults:
        raise InputError(_told(list(faults.values()), len(sound)))
    return sound


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
