"""Evaluation: label volumes measured against references, as `metrics.json`, `metrics.csv` and `report.html`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragsam.console.library_warnings import told_once
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.data.label_numbers import check_numbering
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import pairs_from_cases, pairs_from_folders, unmatched_predictions
from ragsam.evaluation.metrics_file import read_metrics
from ragsam.inference.evaluation import evaluation_warnings, report_evaluation
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

    Returns:
        The content of `metrics.json`, `unmatched`: names of predictions without a reference, and `warnings`: lines.

    Raises:
        InputError: no card, faulty datalist, or files that cannot be read or do not go together.
    """
    check_numbering(labels)
    check_numbering(reference_labels, "--reference-labels")
    if Path(reference).suffix == ".json":
        if reference_labels is not None:
            raise InputError("--reference-labels: a datalist says it by its label_map; leave it out")
        reference_labels = "card"
        data = load_datalist(reference, card=None if card is None else load_card(card))
        pairs = pairs_from_cases(data.section(section), prediction)
        support_cases, card = data.sections.get("training", ()), card or data.card
        unmatched = []
    else:
        pairs = pairs_from_folders(reference, prediction, image_dir=image)
        support_cases = ()
        unmatched = unmatched_predictions(reference, prediction)
    if card is None:
        raise InputError("--card: needed with a folder of references; name a card or its .yaml file")
    metrics = report_evaluation(
        pairs,
        load_card(card),
        prediction,
        output,
        bank=bank,
        support_cases=support_cases,
        baseline=read_metrics(baseline) if baseline else None,
        reads=[path for path in (reference, card, baseline) if path is not None],
        labels=labels,
        reference_labels=reference_labels,
        overwrite=overwrite,
        viewer=viewer_choice(viewer, [pair.case for pair in pairs]),
        protocol=protocol,
        jobs=jobs,
    )
    return {**metrics, "unmatched": list(unmatched), "warnings": evaluation_warnings(metrics)}
