"""What there is to be seen of a case: reference, prediction and image on one grid, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.report.formatting import without_folders
from ragsam.report.views import View, keep_values, view_image, view_labels, window_of


@dataclass(frozen=True)
class Sight:
    """What there is to be seen of a case, in canonical orientation.

    Attributes:
        notes: lines about what cannot be shown.
        expected: reference, [X, Y, Z], the annotated organs alone; None where it cannot be read.
        found: prediction, likewise; empty where there is none to show, None without a reference.
        predicted: whether there is a prediction to show.
        image: on the same grid, None where there is none to show.
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


def read_case(pair: CasePair, card: Card) -> Sight:
    """Read a case's volumes; what is wrong with one becomes a note, and it is left out."""
    notes: list[str] = []
    reference = _read(lambda: view_labels(pair.reference, pair.case, label_map=pair.label_map), notes)
    if reference is None:
        return Sight(notes)
    prediction = None if pair.prediction is None else _read(lambda: view_labels(pair.prediction, pair.case), notes)
    image = None
    if pair.image is not None:
        image = _read(lambda: view_image(pair.image, pair.case, fill_nonfinite=pair.fill_nonfinite), notes)
    if pair.prediction is None:
        notes.append("No prediction for this case.")
    for name, view in (("prediction", prediction), ("image", image)):
        if view is not None and view.array.shape != reference.array.shape:
            notes.append(f"The {name} lies on another grid and is not shown.")
            prediction, image = (None, image) if name == "prediction" else (prediction, None)
    if image is None:
        notes.append("Drawn without the image.")
    annotated = {o.value for o in card.organs if pair.annotated is None or o.name in pair.annotated}
    expected = keep_values(reference.array, annotated)
    return Sight(
        notes=list(dict.fromkeys(notes)),
        expected=expected,
        found=np.zeros_like(expected) if prediction is None else keep_values(prediction.array, annotated),
        predicted=prediction is not None,
        image=image,
        spacing_mm=reference.spacing_mm,
        window=(0.0, 1.0) if image is None else window_of(image.array, card.window),
    )


def _read(read: Callable[[], View], notes: list[str]) -> View | None:
    """Read a volume; what is wrong with it becomes a note."""
    try:
        return read()
    except InputError as error:
        notes.append(without_folders(str(error)))
        return None
