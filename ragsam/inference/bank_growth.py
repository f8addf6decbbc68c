"""A bank that learns from use: a case that a person has labelled or corrected becomes a neighbour at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.evaluation.read_labels import read_labels
from ragsam.inference.bank_building import bank_batches, bank_fit
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.bank_manifest import read_manifest, read_rows
from ragsam.retrieval.bank_removal import remove_patients
from ragsam.retrieval.bank_rows import pseudonym
from ragsam.retrieval.bank_writer import BankWriter
from ragsam.retrieval.retriever import Retriever
from ragsam.runs.bank_only import plain_slices
from ragsam.runs.run import RunFolder, bad_input, part_of
from ragsam.runs.weights import WeightsLoader

logger = logging.getLogger(__name__)


def learn_case(run: RunFolder, folder: Path, case: Case) -> dict[str, Any]:
    """Put a labelled case into a bank, under its patient's pseudonym, in the place of what the bank had of the case.

    `ragsam index RUN --remove PATIENT` takes it out again.

    Args:
        run: that the bank is of.
        folder: of the bank.
        case: with its label; of organs that it does not annotate nothing is voted.

    Returns:
        The bank's manifest.

    Raises:
        InputError: no bank, one made for something else, a faulty case, or one that the bank has from another patient
            or beside more cases of its patient: these are not replaced.
    """
    parser = plain_slices(run.parser("train"))
    get, part = parser.get_parsed_content, partial(part_of, parser)
    with bad_input():
        network, retriever = part("network"), part("retriever")
        if retriever.needs_embedding:
            WeightsLoader(network, get("weights")).load()
        fit = bank_fit(retriever, network, get("preparation"), [case])
        manifest = read_manifest(folder, fit)
        slices = part("train#dataset")(data=[case])  # reads and checks it: nothing is replaced by a faulty one
        replaces = [case.patient] if _is_replaced(folder, manifest, case) else []
        options = {"keeps": manifest["keeps"], "stamps": {case.case: case_stamp(case)}, "replaces": replaces}
        with BankWriter(folder, fit, grow=True, **options) as writer:
            for batch in bank_batches(retriever, network, slices) if writer.left() else ():
                writer.add(batch)
            manifest = writer.commit(partial(measured, folder, retriever))
    logger.info("bank: learnt a case; %d slices of %d patients", manifest["slices"], manifest["patients"])
    return manifest


def forget_patient(run: RunFolder, folder: Path, patient: str) -> dict[str, Any]:
    """Take a patient out of a bank again, and return the bank's manifest; see `remove_patients`.

    Raises:
        InputError: as `remove_patients`.
    """
    with bad_input():
        retriever = part_of(run.parser("train"), "retriever")
        return remove_patients(folder, [patient], partial(measured, folder, retriever))


def with_its_organs(case: Case, labels: Mapping[str, int]) -> Case:
    """Return a case that annotates what its label volume has of some organs; others may not have been drawn.

    Args:
        labels: the organs' values by name.

    Raises:
        InputError: a label that cannot be read, or that has none of them.
    """
    values = set(np.unique(read_labels(case.label, case.case).labels).tolist())
    organs = tuple(organ for organ, value in labels.items() if value in values)
    if not organs:
        raise InputError(f"{case.case}: its label has none of {', '.join(labels)}; nothing was put into the bank")
    return replace(case, annotated=organs)


def _is_replaced(folder: Path, manifest: dict[str, Any], case: Case) -> bool:
    """Whether a bank has other labels of a case, which can be taken out with its patient."""
    rows = read_rows(folder, manifest)
    name = pseudonym(case.case, manifest["salt"], "c")
    if name not in rows["cases"]:
        return False
    if manifest["stamps"].get(name) == pseudonym(case_stamp(case), manifest["salt"], "s"):
        return False  # these very labels
    patient = pseudonym(case.patient, manifest["salt"], "p")
    if set(rows["patients"][rows["cases"] == name]) != {patient}:
        raise InputError(f"{case.case}: is in bank {folder.name} already, of another patient; its labels there stay")
    if set(rows["cases"][rows["patients"] == patient]) != {name}:
        way_out = "take the patient out first with `ragsam index RUN --remove PATIENT`"
        raise InputError(f"{case.case}: is in bank {folder.name} beside other cases of its patient; {way_out}")
    return True


def measured(folder: Path, retriever: Retriever, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return how well the bank of a manifest, which may not stand in the folder yet, agrees with itself."""
    retriever.attach(Bank.of_manifest(folder, manifest))
    return {"agreement": retriever.agreement.as_json()}


def case_stamp(case: Case) -> str:
    """Return a text that changes when a case's files or their meaning do."""
    about: list[Any] = [case.patient, case.annotated, case.label_map, case.fill_nonfinite]
    for path in filter(None, (case.image, case.label)):
        place = path if path.exists() else path.parent  # FOLDER/UID, a series of several
        for file in filter(Path.exists, sorted(place.iterdir()) if place.is_dir() else [place]):
            found = file.stat()
            about.append((found.st_size, found.st_mtime_ns))
    return hashlib.sha256(repr(about).encode()).hexdigest()
