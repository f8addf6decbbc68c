"""Indexing: the labelled slices of a run's patients, or of more, become a bank on disk."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ragsam.console.library_warnings import told_once
from ragsam.console.reporter import begin
from ragsam.data.cards.load import load_card
from ragsam.data.checks.empty_labels import empty_fault
from ragsam.data.datalist import Case, load_datalist
from ragsam.errors import InputError
from ragsam.inference.bank_building import bank_batches, bank_fit
from ragsam.inference.bank_growth import case_stamp, measured
from ragsam.parts import STAMP_NAME, Part, write_stamp
from ragsam.retrieval.bank_manifest import read_manifest
from ragsam.retrieval.bank_merging import merge_banks, shared_salt
from ragsam.retrieval.bank_removal import remove_patients
from ragsam.retrieval.bank_writer import BankWriter
from ragsam.retrieval.retriever import Retriever
from ragsam.runs.bank_only import bank_values, grown_values, packaged_parser, plain_slices
from ragsam.runs.run import RunFolder, bad_input, part_of
from ragsam.runs.weights import WeightsLoader

logger = logging.getLogger(__name__)


def write_bank(
    run: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    *,
    add: str | os.PathLike[str] | None = None,
    section: str = "training",
    data: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    part: str | None = None,
) -> dict[str, Any]:
    """Put labelled slices into a bank, one volume after the other.

    What a killed run had finished is not encoded again, unless its files, the weights or the preparation changed.

    Args:
        run: a trained run; None encodes nothing, see `ragsam.runs.bank_only`.
        folder: of the bank.
        add: datalist whose cases are put beside those of the bank there; None makes the bank of the run's own, or of
            `data`.
        section: of the datalist.
        data: without a run, datalist of the cases that the bank is made of.
        options: without a run, values of `INDEX_OPTIONS`.
        part: `I/N`: only these of the cases, into a bank in `folder`'s `part-I-of-N`, for `merge`.

    Returns:
        The bank's manifest.

    Raises:
        InputError: no trained run, data that cannot be read or are of other organs, another writer; with `add` no
            bank, one made for something else, or a case that is in it, made of other files.
    """
    folder = Path(folder)
    growing = add is not None
    share = None if part is None else Part.of_text(part)
    if share is not None and growing:
        raise InputError("--part: not with --add; make a bank of the cases in parts, or add them at once")
    parser = _parser(run, folder, add=add, section=section, data=data, options=options or {})
    get, part = parser.get_parsed_content, partial(part_of, parser)
    with bad_input():
        network = part("network")
        retriever = part("retriever")
        preparation = get("preparation")
        keeps = retriever.keeps
        if growing:
            keeps = read_manifest(folder)["keeps"]
            cases = _cases(add, section, preparation["labels"], "bank" if run is None else "run")
        else:
            cases = part("datalist_def").section(section)
        if run is not None:
            WeightsLoader(network, get("weights")).load()
        salt = None
        everything = [f"{case.case} {case.image} {case.label}" for case in cases]
        if share is not None:
            cases, salt, folder = share.of(cases), shared_salt(folder), share.folder(folder)
            (folder / STAMP_NAME).unlink(missing_ok=True)  # a part that is run again is not finished until its end
        fit = bank_fit(retriever, network, preparation, cases)
        stamps = {case.case: case_stamp(case) for case in cases}
        with BankWriter(folder, fit, keeps=keeps, stamps=stamps, grow=growing, salt=salt) as writer:
            left = set(writer.left())
            todo = [case for case in cases if case.case in left]
            if todo:
                dataset = part("train#dataset")(data=todo)
                fault = empty_fault("bank", part("card_def"), dataset.lacking)
                if fault is not None and todo == list(cases) and not growing and share is None:
                    raise InputError(fault)
                batches = bank_batches(retriever, network, dataset)
                for batch in progress(batches, done=len(cases) - len(todo), total=len(cases)):
                    writer.add(batch)
            manifest = writer.commit(partial(measured, folder, retriever))
        if share is not None:
            write_stamp(folder, everything, {})
        if writer.there:
            logger.info("bank: %d of %d cases are in it already, made of the same files", len(writer.there), len(cases))
        if todo:
            _tell_agreement(retriever)
            _tell_doubtful(retriever, cases)
        return manifest


def _parser(
    run: str | os.PathLike[str] | None,
    folder: Path,
    *,
    add: str | os.PathLike[str] | None,
    section: str,
    data: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
) -> Any:
    """Return the config whose slices become a bank's: a run's, or, without one, that of a bank or of data."""
    if run is not None:
        return plain_slices(RunFolder(run, "train").parser("train"))
    if add is not None:
        return packaged_parser(grown_values(folder, add))
    return packaged_parser(bank_values(data, section, options))


@told_once()
def prune_bank(
    run: str | os.PathLike[str] | None, folder: str | os.PathLike[str], patients: Sequence[str]
) -> dict[str, Any]:
    """Take patients out of a bank, see `remove_patients`, and ask those that stay how well they agree.

    Args:
        run: of the bank, whose neighbours are counted; None counts as many as by default.

    Returns:
        The bank's manifest.

    Raises:
        InputError: no run, or see `remove_patients`.
    """
    folder = Path(folder)
    retriever = _retriever_of(run, folder)
    manifest = remove_patients(folder, patients, partial(measured, folder, retriever))
    if retriever.bank is not None:
        _tell_agreement(retriever)
    return manifest


@told_once()
def merge_parts(
    run: str | os.PathLike[str] | None, folder: str | os.PathLike[str], parts: Sequence[Path]
) -> dict[str, Any]:
    """Make one bank of the banks of all parts, see `merge_banks`, and ask it how well it agrees with itself.

    Args:
        run: of the bank, whose neighbours are counted; None counts as many as by default.

    Returns:
        The bank's manifest.

    Raises:
        InputError: no run, or as `merge_banks`.
    """
    folder = Path(folder)
    retriever = _retriever_of(run, parts[0])
    manifest = merge_banks(folder, parts, partial(measured, folder, retriever))
    _tell_agreement(retriever)
    return manifest


def _retriever_of(run: str | os.PathLike[str] | None, folder: Path) -> Retriever:
    """Return the retriever of a run, or, without one, of a bank."""
    carry = read_manifest(folder)["fit"].get("carry", False)
    parser = packaged_parser({"carry": carry}) if run is None else RunFolder(run, "train").parser("train")
    return part_of(parser, "retriever")


def _tell_agreement(retriever: Retriever) -> None:
    """Tell how well a bank agrees with itself, and whose vote counts less."""
    found = retriever.agreement
    organs = retriever.bank.fit.get("labels", [])
    among = "other patients" if found.patients > 1 else "the patient's own farther slices"
    logger.info("bank: the vote of %s finds its labels with a Dice of %s", among, found.in_words(organs) or "nothing")
    for organ, dice, chance, trust in zip(organs, found.dice[1:], found.chance[1:], found.trust[1:], strict=False):
        if trust < 1:
            told = "bank: %s: found with a Dice of %.2f, %.2f by chance; its vote counts %.0f %%; check its labels"
            logger.warning(told, organ, dice, chance or 0.0, 100 * trust)


def _tell_doubtful(retriever: Retriever, cases: Sequence[Case]) -> None:
    """Tell of which cases the labels are unlike what the bank's other patients vote for."""
    found = retriever.agreement.doubtful
    for case in cases:
        for name in retriever.bank.own_patients(case.patient, None) & found.keys():
            told = "bank: %s: others' vote finds this patient's labels with a Dice of %.2f, far less than the others'; "
            logger.warning(told + "check them, or take the patient out with --remove", case.case, found[name])


def _cases(datalist: str | os.PathLike[str], section: str, labels: Sequence[str], of: str) -> Sequence[Case]:
    """Return the cases of a datalist whose card has these labels, which are those of the run or the bank."""
    data = load_datalist(datalist)
    card = load_card(data.card)
    if list(card.labels) != list(labels):
        raise InputError(f"{data.path.name}: card {card.name} has other labels than the {of}; take data of its card")
    return data.section(section)


def progress(batches: Iterable[dict[str, Any]], *, done: int, total: int) -> Iterator[dict[str, Any]]:
    """Pass batches of slices on, and show how many volumes are through.

    Args:
        batches: {"case": names, in the order of the volumes, ...}.
        done: volumes that were finished before.
        total: of volumes.
    """
    start = time.monotonic()
    current = None
    slices = 0
    shown = begin("bank", total, "volume", done)
    for batch in chain(batches, [{"case": [None]}]):  # the last volume is through when no other follows
        if batch["case"][0] is not None:
            yield batch
            slices += len(batch["case"])
        for case in batch["case"]:
            if current is not None and case != current:
                done += 1
                passed = time.monotonic() - start
                shown.advance(done, f"bank: volume {done} of {total}, {passed:.0f} s passed")
            current = case
        shown.advance(done, slices=str(slices))
    shown.end()


@told_once()
def index_run(
    run: str | os.PathLike[str] | None,
    output: str | os.PathLike[str] | None = None,
    *,
    add: str | os.PathLike[str] | None = None,
    section: str = "training",
    data: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    part: str | None = None,
) -> tuple[Path, int, int]:
    """Put the labelled slices of a run's training patients into a bank, or those of more patients beside them.

    Args:
        run: a trained run; None needs `output`, and `data` or `add`.
        output: folder of the bank; None takes the run's own `bank/`.
        add: datalist whose `section` is added to the bank that is there; nothing of that bank is encoded again.
        data: without a run, the datalist, see `write_bank`.
        options: without a run, see `write_bank`.
        part: see `write_bank`.

    Returns:
        The folder, and how many slices of how many patients it holds.

    Raises:
        InputError: as `write_bank`.

    Examples:
        >>> import ragsam
        >>> folder, slices, patients = ragsam.index(None, "bank", data="runs/hippocampus.json")
        >>> slices, patients
        (30, 4)
    """
    folder = Path(output) if output else RunFolder(run, "train").bank
    manifest = write_bank(run, folder, add=add, section=section, data=data, options=options, part=part)
    folder = folder if part is None else Part.of_text(part).folder(folder)
    return folder, manifest["slices"], manifest["patients"]
