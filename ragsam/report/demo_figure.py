"""One picture of the whole idea: a query slice, its retrieved neighbours, the reference, and the predictions."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case
from ragsam.evaluation.case_pairs import CasePair
from ragsam.files import atomic_write
from ragsam.report.cases import neighbour_loader
from ragsam.report.figures import organ_colours, slice_png
from ragsam.report.formatting import readable
from ragsam.report.trace_file import neighbours_of
from ragsam.report.views import view_image, view_labels, window_of

NEIGHBOURS = 3


def write_overview(
    path: str | os.PathLike[str],
    *,
    card: Card,
    pair: CasePair,
    predictions: Mapping[str, Path],
    trace: Mapping[str, Any],
    support_cases: Mapping[str, Case],
) -> None:
    """Draw the slice of a case that shows most organs, as a PNG.

    Args:
        pair: the case; it needs an image.
        predictions: {caption: label volume} of the case.
        trace: content of retrieval.json.
        support_cases: {pseudonym: case} of the bank; neighbours that are not among them are left out.

    Raises:
        InputError: a volume that cannot be read, or a file that cannot be written.
    """
    image = view_image(pair.image, pair.case, fill_nonfinite=pair.fill_nonfinite)
    reference = view_labels(pair.reference, pair.case, label_map=pair.label_map)
    organs = [len(np.unique(plane)) for plane in np.moveaxis(reference.array, 2, 0)]
    z = int(np.argmax(organs))
    colours = organ_colours(card)
    place: dict[str, Any] = {"spacing_mm": image.spacing_mm[:2], "window": window_of(image.array, card.window)}
    plane = image.array[:, :, z]
    first = [("query slice", slice_png(plane, None, colours={}, **place))]
    load = neighbour_loader(support_cases)
    for entry in neighbours_of(trace, pair.case, z)[:NEIGHBOURS]:
        near, labels = load(entry["case"]) or (None, None)
        if labels is None:
            continue
        picture = slice_png(
            near.array[:, :, entry["slice"]],
            labels.array[:, :, entry["slice"]],
            spacing_mm=near.spacing_mm[:2],
            window=window_of(near.array, card.window),
            colours=colours,
        )
        first.append((f"neighbour, weight {entry['weight']:.2f}", picture))
    second = [("reference", slice_png(plane, reference.array[:, :, z], colours=colours, **place))]
    for caption, volume in predictions.items():
        labels = view_labels(volume, pair.case).array[:, :, z]
        second.append((caption, slice_png(plane, labels, colours=colours, **place)))
    with atomic_write(path) as temporary:
        temporary.write_bytes(_grid([first, second], card))


def _grid(rows: list[list[tuple[str, bytes]]], card: Card) -> bytes:
    """Lay pictures out in rows, with the organs' colours in the last place of the last row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.image import imread
    from matplotlib.patches import Patch

    columns = max(len(rows[0]), len(rows[-1]) + 1)
    figure = Figure(figsize=(2.9 * columns, 2.7 * len(rows)), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for place in line:
            place.axis("off")
        for place, (caption, picture) in zip(line, row, strict=False):
            place.imshow(imread(io.BytesIO(picture), format="png"))
            place.set_title(caption, fontsize=11)
    handles = [Patch(color=np.divide(organ.colour, 255), label=readable(organ.name)) for organ in card.organs]
    axes[-1, -1].legend(handles=handles, loc="center", fontsize=7.5, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
