"""Segmenting: label volumes of volumes, DICOM folders and datalists, written by a run or by a bank alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ragsam.console.library_warnings import told_once
from ragsam.data.cards.load import Card, load_card
from ragsam.data.datalist import Case
from ragsam.data.label_numbers import check_numbering, sidecar_name
from ragsam.errors import InputError
from ragsam.inference.dicom_seg import require_dicom, seg_name, write_case_seg
from ragsam.inference.evaluation import TRACE_NAME
from ragsam.inference.inputs import cases_of_inputs, files_read, is_dicom, skipped_files
from ragsam.inference.provenance import PROVENANCE_NAME
from ragsam.inference.volume_writer import written_names
from ragsam.outputs import Outputs
from ragsam.parts import STAMP_NAME, Part, as_text, write_stamp
from ragsam.retrieval.bank_manifest import read_manifest
from ragsam.runs.bank_only import BUNDLE, segment_values
from ragsam.runs.run import RunFolder, bad_input, part_of
from ragsam.runs.settings import checked_options
from ragsam.runs.templates import find_bundle

logger = logging.getLogger(__name__)

#: How a run looks at whole volumes.
SEGMENT_OPTIONS = ("test_shift", "test_mirror", "test_scales", "samed_size", "precision")


@told_once()
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
    options: Mapping[str, Any] | None = None,
    labels: str = "card",
    part: str | None = None,
    overwrite: bool = False,
) -> list[Case]:
    """Write a label volume for every input, on the input's own grid.

    Args:
        run: a trained run; None segments by the vote of a bank alone, see `ragsam.runs.bank_only`.
        inputs: volumes, DICOM folders, or datalists, of which `section` is taken. The case of a file or folder is its
            name without suffix; a case of that name in the bank is taken for the same patient and left out.
        output: folder for `CASE.nii.gz` and `retrieval.json`.
        card: without a run, of the bank's organs: a card's name, or the path of its yaml file.
        base: without a run, weights that the vote prompts; see `load_answering`.
        bank: folder of the bank; None takes the run's own, and without one segments without retrieval.
        retrieval: False segments without the bank, as a run does that was trained so, unless a bank is named.
        series: Series Instance UIDs to take from DICOM folders that hold several.
        dicom_seg: write `CASE.seg.dcm` too, a DICOM segmentation of the case's series.
        ensemble: other runs, of the same card, whose probabilities are averaged with this one's.
        uncertainty: write `uncertainty/CASE.nii.gz` too, the entropy of the classes' probabilities, 0 to 1.
        probabilities: write `probabilities/CASE/ORGAN.nii.gz` too.
        options: values of `SEGMENT_OPTIONS`, for this time; None leaves the run's own.
        labels: the numbers that are written: the card's, or `raw`, the data set's own; `CASE.labels.json` names them.
        part: `I/N`: only these of the inputs, into `output`'s `part-I-of-N`, for `merge`.
        overwrite: replace files of `output` that are not the package's own, see `Outputs`.

    Returns:
        The segmented cases.

    Raises:
        InputError: two inputs of one name, a bank that does not fit the run, `dicom_seg` with an input that is not
            DICOM, an unknown option, or an ensemble member that is not a run or has other organs; and, once the
            other inputs are segmented, an input that cannot be read.

    Examples:
        >>> import ragsam
        >>> [case.case for case in ragsam.segment("runs/hippocampus", ["mr.nii.gz"], "predictions")]
        ['mr']
    """
    check_numbering(labels)
    folder = RunFolder(find_bundle(BUNDLE) if run is None else run)
    share = None if part is None else Part.of_text(part)
    output = Path(output) if share is None else share.folder(Path(output))
    values: dict[str, Any] = {"output_dir": str(output.absolute()), **retrieval_values(folder, bank, retrieval)}
    values |= _segment_options(folder, options or {})
    if run is None:
        values |= segment_values(card, bank, base)
    organs = folder.card if run is not None else load_card(card)
    cases = cases_of_inputs(inputs, card=organs, section=section, series=series)
    everything = cases
    if share is not None:
        cases = share.of(cases)
    if dicom_seg:
        require_dicom(cases)
    values["ensemble"] = [str(Path(other).absolute()) for other in ensemble]
    values |= _writer_values(folder, labels)
    maps = {"uncertainty": uncertainty, "probabilities": probabilities}
    names = [PROVENANCE_NAME, *([TRACE_NAME] if retrieval else [])]
    for case in cases:
        names += [*written_names(case.case, organs.labels, **maps), sidecar_name(case.case)]
        if dicom_seg:
            names.append(seg_name(case.case))
    if share is not None:
        names.append(STAMP_NAME)
    with Outputs(output, names, reads=files_read(inputs, cases), overwrite=overwrite):
        (output / STAMP_NAME).unlink(missing_ok=True)  # a part that is run again is not finished until its end
        faults = _run(folder, cases, values | maps)
        sound = [case for case in cases if case.case not in faults]
        faults |= _finish_dicom(sound, output, organs if dicom_seg else None)
        if share is not None and not faults:
            about = {"options": dict(options or {}), "labels": labels, "retrieval": retrieval, "bank": as_text(bank)}
            about |= {**maps, "dicom_seg": dicom_seg, "ensemble": as_text(list(ensemble)), "base": as_text(base)}
            write_stamp(output, [f"{case.case} {case.image}" for case in everything], about)
    if sound and labels == "card" and organs.label_map is not None:
        told = "segment: label volumes have the numbers of card %s, not the data set's own, which --labels raw writes"
        logger.info(told, organs.name)
    if faults:
        raise InputError(told_faults([faults[case.case] for case in cases if case.case in faults], len(sound)))
    return sound


def _writer_values(folder: RunFolder, labels: str) -> dict[str, Any]:
    """Return the entries of `inference.yaml` by which its writer knows the numbers, in runs of before too.

    Raises:
        InputError: a config without such a writer.
    """
    handlers = folder.content("inference").get("handlers")
    for place, handler in enumerate(handlers if isinstance(handlers, list) else []):
        if isinstance(handler, dict) and str(handler.get("_target_")).endswith("LabelVolumeWriter"):
            return {f"handlers#{place}#card": "@card_def", f"handlers#{place}#labels": labels}
    raise InputError(f"{folder.path.name}: no LabelVolumeWriter among the handlers of its inference.yaml; add it")


def _finish_dicom(cases: Sequence[Case], output: Path, card: Card | None) -> dict[str, str]:
    """Tell what was left out of DICOM folders, and with a card write segmentations; return the faults by case."""
    faults = {}
    for case in filter(is_dicom, cases):
        skipped = skipped_files(case)
        if skipped:
            logger.info("segment: %s: %d files of the folder are no DICOM images; left out", case.case, skipped)
        if card is None:
            continue
        try:
            write_case_seg(output, case, card)
        except InputError as error:
            faults[case.case] = str(error)
    return faults


def _run(folder: RunFolder, cases: Sequence[Case], values: Mapping[str, Any]) -> dict[str, str]:
    """Segment the cases that can be read; return the faults of the others. Where none can nothing is written."""
    workflow = folder.workflow("inference", cases=list(cases), **{"dataloader#skip_faulty": True}, **values)
    with bad_input():
        workflow.initialize()
        part = partial(part_of, workflow.parser)
        dataset = part("dataset")
        if part("dataloader").start():
            part("evaluator").add_event_handler(Events.DATALOADER_STOP_ITERATION, Engine.terminate_epoch)
            workflow.run()
            workflow.finalize()
        return dataset.faults


def retrieval_values(run: RunFolder, bank: str | os.PathLike[str] | None, retrieval: bool) -> dict[str, Any]:
    """Return the entries of a run's config that say with what bank it segments, if with any.

    Raises:
        InputError: a named folder that is not a bank.
    """
    if not retrieval:
        return {"retrieval": False}
    if bank is not None:
        read_manifest(Path(bank))
        return {"retrieval": True, "bank": str(Path(bank).absolute())}
    if run.content("inference").get("retrieval") is False:
        logger.info("%s: segments without retrieval, as it was trained (retrieval: false)", run.path.name)
    return {}


def _segment_options(run: RunFolder, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that may be set when a run segments, each of the right kind."""
    if unknown := sorted(set(options) - set(SEGMENT_OPTIONS)):
        raise InputError(f"--set {unknown[0]}: no option of segmenting; there are {', '.join(SEGMENT_OPTIONS)}")
    return checked_options(run.text("inference"), options)


def told_faults(faults: Sequence[str], segmented: int) -> str:
    """Return the first fault's line, with how many more there are and how many inputs were segmented."""
    more = []
    if len(faults) > 1:
        more.append(f"{len(faults) - 1} more at fault")
    if segmented:
        more.append(f"{segmented} segmented")
    if not more:
        return faults[0]
    return f"{faults[0]} ({', '.join(more)})"
