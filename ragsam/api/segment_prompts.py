"""The job behind `ragsam segment --prompts`: objects that a person asks for, as label volumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ragsam.api.segment import retrieval_values, told_faults
from ragsam.console.case_progress import CaseProgress
from ragsam.console.library_warnings import told_once
from ragsam.data.cards.load import load_card
from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case
from ragsam.data.label_numbers import sidecar_name, write_sidecar
from ragsam.errors import InputError
from ragsam.files import write_json_atomic
from ragsam.inference.bank_growth import learn_case, with_its_organs
from ragsam.inference.inputs import cases_of_inputs, files_read
from ragsam.inference.volume_writer import write_label_volume, written_names
from ragsam.outputs import Outputs
from ragsam.prompting.prompt_file import ObjectPrompts, read_prompts
from ragsam.prompting.prompted_base import PromptedBase
from ragsam.prompting.prompted_run import PromptedObjects, PromptedRun, load_prompted
from ragsam.retrieval.bank_manifest import read_manifest
from ragsam.runs.run import BANK, RunFolder, require_plain

PROMPTED_NAME = "prompts.json"


@told_once()
def segment_prompted(
    run: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    prompts: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    section: str = "test",
    bank: str | os.PathLike[str] | None = None,
    retrieval: bool = True,
    series: Sequence[str] = (),
    overwrite: bool = False,
    add_to_bank: bool = False,
) -> list[Case]:
    """Write a label volume of the objects that prompts ask for, on each input's own grid, and `prompts.json`.

    Where an object of a case is to be refined, the case's label volume is the automatic result with what was asked for
    in it; else it holds the objects alone. Organs have their card's values, other objects the values after these, in
    the order in which they are named. Where objects overlap the later one is on top.

    Args:
        run: a trained run whose network answers prompts, or one with base weights, which then do.
        inputs, section, bank, retrieval, series, overwrite: as in `segment_with_run`; the bank is searched for
            automatic results.
        prompts: see `read_prompts`; it names every case of the inputs.
        output: folder for `CASE.nii.gz`, and for `prompts.json`: what each value is, in which slices it was found.
        add_to_bank: put the organs that were asked for into the bank, as neighbours of the next case; see `learn_case`.

    Returns:
        The cases.

    Raises:
        InputError: a network that answers no prompts, faulty prompts, a case without prompts or prompts without case;
            with `add_to_bank` no bank, or an object that is no organ or is sought in single slices; or, once the other
            inputs are segmented, an input that cannot be read, or that the bank refuses.
    """
    folder = RunFolder(run)
    require_plain(folder.path, output)
    asked = read_prompts(prompts, folder.card)
    cases = cases_of_inputs(inputs, card=folder.card, section=section, series=series)
    _require_prompts_for(cases, asked, prompts)
    grown = _bank_to_grow(folder, bank, asked) if add_to_bank else None
    prompted = load_prompted(folder, **retrieval_values(folder, bank, retrieval))
    learn = None if grown is None else partial(_learn, prompted, grown)
    reads = [prompts, *files_read(inputs, cases)]
    _answer(prompted, cases, asked, output, reads=reads, overwrite=overwrite, learn=learn)
    return cases


@told_once()
def segment_prompted_by_base(
    base: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    prompts: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    card: str | os.PathLike[str] | None = None,
    window: Sequence[float] | None = None,
    section: str = "test",
    series: Sequence[str] = (),
    overwrite: bool = False,
) -> list[Case]:
    """Write what base weights answer to prompts, as `segment_prompted` does for a run; nothing is trained.

    Args:
        base: a name of `ragsam bases`, or a file of weights that answer prompts.
        card: of organs that prompts may name; None knows none, and objects are numbered from 1.
        window: lowest and highest intensity; None takes the card's, soft tissue for what looks like CT, else
            percentiles of the volume.
        inputs, prompts, output, section, series, overwrite: see `segment_prompted`.

    Returns:
        The cases.

    Raises:
        InputError: base weights that are not installed or answer no prompts, or as `segment_prompted`.
    """
    require_plain(output)
    prompted = PromptedBase(base, card=None if card is None else load_card(card), window=window)
    asked = read_prompts(prompts, prompted.card)
    cases = cases_of_inputs(inputs, section=section, series=series)
    _require_prompts_for(cases, asked, prompts)
    reads = [prompts, *files_read(inputs, cases)]
    _answer(prompted, cases, asked, output, reads=reads, overwrite=overwrite)
    return cases


def _require_prompts_for(cases: Sequence[Case], asked: Mapping[str, Any], prompts: str | os.PathLike[str]) -> None:
    name, names = Path(prompts).name, {case.case for case in cases}
    if lacking := sorted(names - set(asked)):
        raise InputError(f"{lacking[0]}: {name} has no prompts for it; add them, or leave the input out")
    if unknown := sorted(set(asked) - names):
        raise InputError(f"{name}: {unknown[0]} is not among the inputs; a case is named after its file or folder")


def _answer(
    prompted: PromptedObjects,
    cases: Sequence[Case],
    asked: Mapping[str, Sequence[ObjectPrompts]],
    output: str | os.PathLike[str],
    *,
    reads: Sequence[str | os.PathLike[str]],
    overwrite: bool,
    learn: Callable[[Case, Sequence[ObjectPrompts]], list[str]] | None = None,
) -> None:
    """Write the label volumes of cases and what their values are; faulty cases are reported at the end.

    Args:
        learn: called with each case, with its new label, and what was asked of it; returns faults.
    """
    told, faults = {}, []
    written = [PROMPTED_NAME]
    for case in cases:
        written += [*written_names(case.case), sidecar_name(case.case)]
    with Outputs(output, written, reads=reads, overwrite=overwrite):
        with CaseProgress("segment", len(cases)) as progress:
            for number, case in enumerate(cases, start=1):
                try:
                    volume = prompted.volume(case)
                except InputError as error:
                    faults.append(str(error))
                else:
                    labels, told[case.case] = prompted.answer(case, volume, asked[case.case])
                    label = _write(output, case, prompted.card, labels, told[case.case])
                    if learn is not None:
                        faults += learn(replace(case, label=label, label_map=None), asked[case.case])
                progress(number)
        if told:
            write_json_atomic(Path(output) / PROMPTED_NAME, {"cases": told})
    if faults:
        raise InputError(told_faults(faults, len(told)))


def _bank_to_grow(
    run: RunFolder, bank: str | os.PathLike[str] | None, asked: Mapping[str, Sequence[ObjectPrompts]]
) -> Path:
    """Return the folder of the bank that corrected cases are put into."""
    folder = Path(bank) if bank is not None else run.path / BANK
    read_manifest(folder)
    for case, objects in asked.items():
        for one in objects:
            if not one.organ:
                raise InputError(f"--add-to-bank: {case}: {one.name} is no organ of the card; ask for organs alone")
            if not (one.refine or one.propagate):
                fault = f"{one.name} is sought in single slices, and would be missing from the others"
                raise InputError(f"--add-to-bank: {case}: {fault}; add refine or propagate")
    return folder


def _learn(prompted: PromptedRun, folder: Path, case: Case, asked: Sequence[ObjectPrompts]) -> list[str]:
    """Put the organs that were asked for into a bank; return why not, if it refuses them."""
    try:
        found = with_its_organs(case, {one.name: prompted.card.labels[one.name] for one in asked})
        learn_case(prompted.loaded.folder, folder, found)
    except InputError as error:
        return [str(error)]
    prompted.loaded.forget_bank()
    return []


def _write(output: str | os.PathLike[str], case: Case, card: Card, labels: np.ndarray, told: Mapping[str, Any]) -> Path:
    """Write a case's label volume and what its values are; return the volume's path."""
    written = Path(output) / written_names(case.case)[0]
    write_label_volume(written, labels, case.image)
    objects = {one["name"]: one["value"] for one in told["objects"]}
    write_sidecar(written, card.labels | objects, card=card.name, numbers="card")
    return written.absolute()
