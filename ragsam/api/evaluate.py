"""Evaluation: label volumes measured against references, as `metrics.json`, `metrics.csv` and `report.html`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ragsam.console.library_warnings import told_once
from ragsam.data.cards.load import load_card
from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case, load_datalist
from ragsam.data.label_numbers import check_numbering
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair, pairs_from_cases, pairs_from_folders, unmatched_predictions
from ragsam.evaluation.metrics_file import read_metrics
from ragsam.evaluation.numbering import with_numbering
from ragsam.evaluation.part_scores import Results, read_scores, write_scores
from ragsam.evaluation.score_cases import require_evaluable
from ragsam.inference.evaluation import evaluation_warnings, report_evaluation
from ragsam.parts import Part
from ragsam.report.viewer import viewer_choice


@told_once()
def evaluate(
    reference: str | os.PathLike[str],
    prediction: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    card: str | os.PathLike[str] | None = None,
    image: str | os.PathLike[str] | None = None,
    section: str = "test",
    protocol: str = "clinical",
    jobs: int | None = None,
    bank: str | os.PathLike[str] | None = None,
    baseline: str | os.PathLike[str] | None = None,
    viewer: Sequence[str] | None = None,
    labels: str | None = None,
    reference_labels: str | None = None,
    part: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure label volumes, and write `metrics.json`, `metrics.csv` and `report.html`.

    Args:
        reference: folder of label volumes, or a datalist, of which `section` is taken.
        prediction: folder of label volumes.
        output: folder of what is written.
        card: its name or file; None takes the datalist's.
        image: folder of the images of a folder of references, for the pictures.
        protocol: `clinical`, `btcv`, `flare22` (that is `flare22-2022`), `flare22-2024`, `flare22-fixed` or `samed`.
        jobs: processes; None takes one a core.
        bank: the bank that was searched, to show the neighbours' pictures.
        baseline: `metrics.json` of another evaluation to compare with.
        viewer: cases to show in 3D, or how many of the worst; an empty list shows 3; None shows none.
        labels: the predictions' numbers, `card` or `raw` (the data set's own); None finds them out, see
            `with_numbering`.
        reference_labels: the same of a folder of references; a datalist says it by its `label_map`.
        overwrite: replace files of `output` that are not the package's own, see `Outputs`.

        part: `I/N`: only the scores of these of the cases, into `output`'s `part-I-of-N`, for `merge`. Needs `labels`,
            and for a folder of references `reference_labels`: a part does not see all files to find them out.

    Returns:
        The content of `metrics.json`, `unmatched`: names of predictions without a reference, and `warnings`: lines. For
        a part `n_cases` alone.

    Raises:
        InputError: no card, faulty datalist, or files that cannot be read or do not go together.

    Examples:
        >>> import ragsam
        >>> cases = ragsam.segment("runs/hippocampus", ["runs/hippocampus.json"], "predictions")
        >>> found = ragsam.evaluate("runs/hippocampus.json", "predictions", "evaluation")
        >>> len(found["cases"])
        3
    """
    check_numbering(labels)
    check_numbering(reference_labels, "--reference-labels")
    of_datalist = Path(reference).suffix == ".json"
    if of_datalist and reference_labels is not None:
        raise InputError("--reference-labels: a datalist says it by its label_map; leave it out")
    about = _Arguments(
        reference=_absolute(reference),
        prediction=_absolute(prediction),
        card=_card(card),
        image=_absolute(image),
        section=section,
        protocol=protocol,
        bank=_absolute(bank),
        baseline=_absolute(baseline),
        viewer=None if viewer is None else list(viewer),
        labels=labels,
        reference_labels="card" if of_datalist else reference_labels,
    )
    if part is None:
        return _report(about, output, jobs=jobs, overwrite=overwrite)
    return _score(about, Part.of_text(part), Path(output), jobs=jobs, overwrite=overwrite)


@told_once()
def merge_scores(output: str | os.PathLike[str], parts: Sequence[Path], *, overwrite: bool = False) -> dict[str, Any]:
    """Write the evaluation whose scores all parts hold, as `evaluate` does; return what it returns.

    Raises:
        InputError: as `evaluate`, or parts that do not go together.
    """
    arguments, cases, results = read_scores(parts)
    known = [field.name for field in fields(_Arguments)]
    if sorted(arguments) != sorted(known):
        raise InputError(f"{parts[0].name}: evaluated by another version; evaluate the parts again")
    return _report(_Arguments(**arguments), output, scored=(cases, results), overwrite=overwrite)


@dataclass(frozen=True)
class _Arguments:
    """What an evaluation is of, as JSON has it; see `evaluate`."""

    reference: str
    prediction: str
    card: str | None
    image: str | None
    section: str
    protocol: str
    bank: str | None
    baseline: str | None
    viewer: list[str] | None
    labels: str | None
    reference_labels: str | None


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    """Return a path that holds from any folder."""
    return None if path is None else str(Path(path).absolute())


def _card(card: str | os.PathLike[str] | None) -> str | None:
    """Return a card's file by a path that holds from any folder; its name as it is."""
    return _absolute(card) if card is not None and Path(card).suffix else card


def _pairs(about: _Arguments) -> tuple[list[CasePair], Card, Sequence[Case], list[str]]:
    """Return the pairs of an evaluation, its card, the cases that a bank may hold, and predictions of no reference."""
    if Path(about.reference).suffix == ".json":
        data = load_datalist(about.reference, card=None if about.card is None else load_card(about.card))
        pairs = pairs_from_cases(data.section(about.section), about.prediction)
        return pairs, load_card(about.card or data.card), data.sections.get("training", ()), []
    pairs = pairs_from_folders(about.reference, about.prediction, image_dir=about.image)
    if about.card is None:
        raise InputError("--card: needed with a folder of references; name a card or its .yaml file")
    return pairs, load_card(about.card), (), unmatched_predictions(about.reference, about.prediction)


def _report(
    about: _Arguments,
    output: str | os.PathLike[str],
    *,
    scored: tuple[list[str], Results] | None = None,
    jobs: int | None = None,
    overwrite: bool,
) -> dict[str, Any]:
    """Measure and report; with `scored`, the cases and their results, report alone."""
    pairs, card, support_cases, unmatched = _pairs(about)
    options: dict[str, Any] = {"protocol": about.protocol, "jobs": jobs}
    if scored is not None:
        names, options["results"] = scored
        if [pair.case for pair in pairs] != names:
            raise InputError(f"{output}: the cases are not those that were scored; evaluate the parts again")
        pairs = with_numbering(pairs, card, labels=about.labels, reference_labels=about.reference_labels)
    metrics = report_evaluation(
        pairs,
        card,
        about.prediction,
        output,
        bank=about.bank,
        support_cases=support_cases,
        baseline=read_metrics(about.baseline) if about.baseline else None,
        reads=[path for path in (about.reference, about.card, about.baseline) if path is not None],
        labels=about.labels,
        reference_labels=about.reference_labels,
        overwrite=overwrite,
        viewer=viewer_choice(about.viewer, [pair.case for pair in pairs]),
        **options,
    )
    return {**metrics, "unmatched": list(unmatched), "warnings": evaluation_warnings(metrics)}


def _score(about: _Arguments, part: Part, output: Path, *, jobs: int | None, overwrite: bool) -> dict[str, Any]:
    """Write the scores of a part."""
    if about.labels is None or about.reference_labels is None:
        option = "--labels" if about.labels is None else "--reference-labels"
        raise InputError(f"{option}: needed with --part, which does not see all files; say card or raw")
    pairs, card, _, _ = _pairs(about)
    require_evaluable(pairs, card, about.protocol)
    mine = with_numbering(part.of(pairs), card, labels=about.labels, reference_labels=about.reference_labels)
    options = {"protocol": about.protocol, "jobs": jobs, "overwrite": overwrite}
    write_scores(mine, card, part.folder(output), asdict(about), **options)
    return {"n_cases": len(mine)}
