"""Evaluation of written label volumes, and the report of it; as a function, and as an Ignite handler."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ragsam.console.case_progress import CaseProgress
from ragsam.data.cards.load import Card
from ragsam.data.checks.parallel import cores
from ragsam.data.datalist import Case, load_datalist, paths_of
from ragsam.errors import InputError
from ragsam.evaluation.metrics_file import read_metrics
from ragsam.evaluation.numbering import with_numbering
from ragsam.evaluation.score_case import evaluated
from ragsam.evaluation.score_cases import CasePair, evaluate_cases, pairs_from_cases
from ragsam.inference.provenance import provenance_rows
from ragsam.outputs import Outputs
from ragsam.report.page import write_report
from ragsam.report.tables import write_metrics_csv, write_metrics_json, write_summary_tables
from ragsam.report.trace_file import read_trace
from ragsam.report.viewer_code import load_viewer_code
from ragsam.retrieval.bank import Bank, pseudonym

logger = logging.getLogger(__name__)

TRACE_NAME = "retrieval.json"
#: What an evaluation writes.
EVALUATION_FILES = ("metrics.json", "metrics.csv", "metrics.md", "metrics.tex", "report.html")
_VERSIONS = ("ragsam", "numpy", "scipy", "nibabel")


def report_evaluation(
    pairs: Sequence[CasePair],
    card: Card,
    predictions: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bank: str | os.PathLike[str] | None = None,
    support_cases: Sequence[Case] = (),
    baseline: Mapping[str, Any] | None = None,
    baseline_name: str = "without retrieval",
    viewer: int | Sequence[str] = 0,
    labels: str | None = None,
    reference_labels: str | None = "card",
    reads: Iterable[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measure predictions and write metrics.json, .csv, .md and .tex and report.html into `output`.

    Args:
        pairs: references and predictions.
        predictions: folder of the predictions; of its files, if any, `retrieval.json` gives the neighbours, and
            `provenance.json` what the predictions were made with.
        bank: the bank behind them, which knows the pseudonyms of `support_cases`, shown beside the query slices.
        support_cases: cases the bank was made of.
        baseline: metrics of the same cases without retrieval (or of any other run).
        viewer: cases with an interactive 3D view; see `write_report`.
        labels, reference_labels: the files' numbers, see `with_numbering`; scored pairs (`results`) know them.
        reads: files that were read beside those of the pairs, see `Outputs`, as `overwrite`.
        options: of `evaluate_cases`.

    Returns:
        The content of metrics.json.
    """
    output = Path(output)
    if viewer:
        load_viewer_code()  # what is missing is reported before the work
    with evaluation_outputs(output, pairs, reads=reads, overwrite=overwrite):
        if "results" not in options:
            numbers = {"labels": labels, "reference_labels": reference_labels}
            pairs = with_numbering(pairs, card, **numbers, jobs=options.get("jobs") or cores())
        metrics = _measured(pairs, card, options)
        write_metrics_json(metrics, output / "metrics.json")
        write_metrics_csv(metrics, output / "metrics.csv")
        write_summary_tables(metrics, output)
        trace = None
        trace_path = Path(predictions) / TRACE_NAME
        if trace_path.is_file():
            trace = read_trace(trace_path)
        known = {}
        if bank is not None and (Path(bank) / "manifest.json").is_file():
            salt = Bank.open(bank).salt
            known = {pseudonym(case.case, salt, "c"): case for case in support_cases}
        write_report(
            metrics,
            output / "report.html",
            card=card,
            pairs=pairs,
            trace=trace,
            baseline=baseline,
            baseline_name=baseline_name,
            support_cases=known,
            provenance={**provenance_rows(predictions), "evaluated with": versions()},
            viewer=viewer,
        )
    return metrics


def evaluation_outputs(folder: str | os.PathLike[str], pairs: Sequence[CasePair], **options: Any) -> Outputs:
    """Return the outputs of an evaluation of these pairs; see `Outputs` for `reads` and `overwrite`."""
    read = [path for pair in pairs for path in (pair.reference, pair.prediction, pair.image) if path is not None]
    return Outputs(folder, EVALUATION_FILES, **{**options, "reads": [*read, *options.get("reads", ())]})


def evaluation_lines(metrics: Mapping[str, Any], folder: str | os.PathLike[str]) -> list[str]:
    """Return the lines that a command prints after an evaluation: the mean Dice, if measured, and the report's path."""
    dice = metrics["summary"]["mean"]["dice"]
    told = []
    if dice["mean"] is not None:
        told.append(f"mean Dice {dice['mean']:.4f} (n = {dice['n']} patients; {metrics['patients']})")
    return [*told, f"report: {Path(folder) / 'report.html'}"]


def evaluation_warnings(metrics: Mapping[str, Any]) -> list[str]:
    """Return the protocol's own warning, and one with the likely causes where no case has a voxel right."""
    told = [metrics["protocol_caveat"]] if metrics["protocol_caveat"] else []
    if metrics["summary"]["mean"]["dice"]["mean"] == 0:
        told.append(
            "mean Dice 0 over all cases: no voxel agrees; do the predictions have other label numbers (--labels), "
            "another card, another orientation, or other cases' names?"
        )
    return told


def _measured(pairs: Sequence[CasePair], card: Card, options: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate, and show how far it is, unless the scores are there already."""
    if "results" in options:
        return evaluate_cases(pairs, card, **options)
    with CaseProgress("evaluate", len(pairs)) as progress:
        return evaluate_cases(pairs, card, progress=progress, **options)


def versions() -> str:
    """Return the versions of the packages that a measurement depends on."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)


class EvaluationReport:
    """Measures the volumes that an evaluator has written, when it is done.

    Of several processes each scores the cases that its own evaluator has had; the scores are gathered once, and the
    first process writes. It scores what none of them has had, as missed if there is no volume.

    Args:
        datalist: path of the datalist.
        section: the section that was segmented.
        card: the data set's card.
        predictions: folder of the label volumes.
        output: folder for metrics and report.
        bank: the bank that was searched, if any.
        baseline: metrics.json of an evaluation to compare with, if any.

    Raises:
        InputError: at the end, once everything else is written, where a case could not be measured.
    """

    def __init__(
        self,
        datalist: str | os.PathLike[str],
        section: str,
        card: Card,
        predictions: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        bank: str | os.PathLike[str] | None = None,
        baseline: str | os.PathLike[str] | None = None,
    ) -> None:
        self.datalist = datalist
        self.section = section
        self.card = card
        self.predictions = predictions
        self.output = output
        self.bank = bank
        self.baseline = baseline
        self.done: set[str] = set()

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator, after the handler that writes the volumes."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note)
        engine.add_event_handler(Events.COMPLETED, self.report)

    def start(self, engine: Engine) -> None:
        """Forget the cases of an earlier run; see that the evaluation may be written."""
        self.done = set()
        if idist.get_rank() == 0:
            cases = load_datalist(self.datalist, self.card).section(self.section)
            reads = [self.datalist, *paths_of(cases), *filter(None, (self.baseline,))]
            Outputs(self.output, EVALUATION_FILES, reads=reads)  # reported before anything is segmented

    def note(self, engine: Engine) -> None:
        """Note the cases that this process has just had."""
        self.done |= {batch["case"] for batch in engine.state.batch}

    def report(self, engine: Engine) -> None:
        """Write metrics.json, metrics.csv and report.html; in the first process alone, where there are several."""
        data = load_datalist(self.datalist, self.card)
        score = partial(evaluated, card=self.card, protocol="clinical")
        pairs = pairs_from_cases(data.section(self.section), self.predictions)
        own = with_numbering([pair for pair in pairs if pair.case in self.done], self.card, labels="card")
        scores = gather({pair.case: score(pair) for pair in own})
        if idist.get_rank() != 0:
            return
        pairs = pairs_from_cases(data.section(self.section), self.predictions)  # now that all have written theirs
        pairs = with_numbering(pairs, self.card, labels="card")
        baseline = None
        if self.baseline:
            baseline = read_metrics(self.baseline)
        metrics = report_evaluation(
            pairs,
            self.card,
            self.predictions,
            self.output,
            results=[scores.get(pair.case) or score(pair) for pair in pairs],
            bank=self.bank,
            support_cases=data.sections.get("training", ()),
            baseline=baseline,
        )
        for line in evaluation_warnings(metrics):
            logger.warning("evaluate: %s", line)
        for line in evaluation_lines(metrics, self.output):
            logger.info("evaluate: %s", line)
        if metrics["faults"]:
            raise InputError(f"{metrics['faults'][0]} ({len(metrics['faults'])} such); the rest is in {self.output}")


def gather(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of all processes by case; of a case that several have had, the first one's."""
    if idist.get_world_size() == 1:
        return scores
    merged: dict[str, Any] = {}
    for one in idist.all_gather(scores):
        merged = one | merged
    return merged
