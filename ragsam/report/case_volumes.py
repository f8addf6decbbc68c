"""What there is to be seen of a case: reference, prediction and image on one grid, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.report.formatting import without_folders
from ragsam.report.views import View, keep_values, view_image, view_labels, window_of


@dataclass(frozen=True)
class CaseVolumes:
    """What there is to be seen of a case, in canonical orientation.

    Attributes:
        notes: lines about what cannot be shown.
        expected: reference, [X, Y, Z], the annotated organs alone; None if it cannot be read.
        found: prediction, likewise; empty if it cannot be shown, None without a reference.
        predicted: whether there is a prediction to show.
        image: on the same grid, None if it cannot be shown.
        spacing_mm: (3,), mm, array order.
        window: values drawn black and white.
    """

    notes: list[str]
    expected: NDArray[np.integer] | None = None
    found: NDArray[np.integer] | None = None
    predicted: bool = False
    image: View | None = None
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    window: tuple[float, float] = (0.0, 1.0)


def read_case(pair: CasePair, card: Card) -> CaseVolumes:
    """Read a case's volumes; what is wrong with one becomes a note, and it is left out."""
    notes: list[str] = []
    reference = _read(notes, view_labels, pair.reference, pair.case, label_map=pair.label_map)
    if reference is None:
        return CaseVolumes(notes)
    prediction = _read(notes, view_labels, pair.prediction, pair.case, label_map=pair.prediction_map)
    image = _read(notes, view_image, pair.image, pair.case, fill_nonfinite=pair.fill_nonfinite)
    if pair.prediction is None:
        notes.append("No prediction for this case.")
    if prediction is not None:
        prediction = prediction.placed_on(reference)
        if prediction is None:
            notes.append("The prediction is on a different grid and is not shown.")
    if image is not None:
        image = image.placed_on(reference)
        if image is None:
            notes.append("The image is on a different grid and is not shown.")
    window = (0.0, 1.0)
    if image is None:
        notes.append("Drawn without the image.")
    else:
        window = window_of(image.array, card.window)
    annotated = pair.annotated
    if annotated is None:
        annotated = tuple(card.labels)
    values = [card.labels[organ] for organ in annotated]
    expected = keep_values(reference.array, values)
    found = np.zeros_like(expected)
    if prediction is not None:
        found = keep_values(prediction.array, values)
    notes = list(dict.fromkeys(notes))
    return CaseVolumes(notes, expected, found, prediction is not None, image, reference.spacing_mm, window)


def _read(notes: list[str], view: Callable[..., View], path: Path | None, case: str, **options: Any) -> View | None:
    """Read a volume if there is one; what is wrong with it becomes a note."""
    if path is None:
        return None
    try:
        return view(path, case, **options)
    except InputError as error:
        notes.append(without_folders(str(error)))
        return None
