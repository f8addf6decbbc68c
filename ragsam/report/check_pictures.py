"""Pictures of what a data check found: volumes that are there twice, and labels unlike the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.report.figures import slice_png
from ragsam.report.formatting import readable
from ragsam.report.views import crop_box, keep_values, view_image, view_labels, window_of

PIXELS = 300
MAX_FINDINGS = 12
OUTLINE = (230, 159, 0)  # seen on every grey, which a card's colours need not be


class Finding(NamedTuple):
    """What is worth a look: pictures side by side, each a caption and a PNG."""

    title: str
    text: str
    panels: list[tuple[str, bytes]]


def findings(summary: Mapping[str, Any], cases: Mapping[str, Case], card: Card) -> list[Finding]:
    """Return at most 12 findings of a survey, pairs of volumes first; volumes that cannot be read are left out."""
    found = []
    for title, text, wanted in (*_pairs(summary, cases), *_outliers(summary)):
        try:
            panels = [(caption, _picture(cases[case], organ, card)) for caption, case, organ in wanted]
        except InputError:  # reported among the faults
            continue
        found.append(Finding(title, text, panels))
        if len(found) == MAX_FINDINGS:
            break
    return found


def _pairs(summary: Mapping[str, Any], cases: Mapping[str, Case]) -> Iterator[tuple[str, str, list]]:
    """Yield title, text and [(caption, case, None)] of volumes that are there twice."""
    for pair in summary["duplicates"]:
        names = pair["cases"]
        whose = "the same patient" if pair["same_patient"] else "two patients"
        how = f"similarity {pair['similarity']:.6f}"
        if pair["similarity"] == 1:
            how = "every voxel is the same"
        captions = [(f"{name}, patient {cases[name].patient}", name, None) for name in names]
        yield " and ".join(names), f"One volume under {whose}: {how}.", captions


def _outliers(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, list]]:
    """Yield title, text and [(caption, case, organ)] of volumes that stand out, with a usual case beside them."""
    for entry in summary["cases"]:
        for organ in entry["outliers"]:
            case = entry["case"]
            usual = _typical(summary, organ)
            volume = f"{entry['organs_ml'][organ]:.3g} ml"
            text = f"{volume}; the others have {summary['organs'][organ]['median_ml']:.3g} ml in the middle."
            pictures = [(f"{case}, {volume}", case, organ), (f"{usual}, a usual one", usual, organ)]
            yield f"{readable(organ)} of {case}", text, pictures


def _typical(summary: Mapping[str, Any], organ: str) -> str:
    """Return the case whose volume of the organ is closest to the median."""
    median = summary["organs"][organ]["median_ml"]
    distances = {}
    for case in summary["cases"]:
        volume = (case["organs_ml"] or {}).get(organ)
        if volume:
            distances[case["case"]] = abs(volume - median)
    return min(distances, key=distances.__getitem__)


def _picture(case: Case, organ: str | None, card: Card) -> bytes:
    """Draw the slice where an organ is largest, cut to it and outlined; the middle slice for none."""
    image = view_image(case.image, case.case, fill_nonfinite=case.fill_nonfinite)
    place: dict[str, Any] = {"spacing_mm": image.spacing_mm[:2], "window": window_of(image.array, card.window)}
    if organ is None or case.label is None:
        middle = image.array[:, :, image.array.shape[2] // 2]
        return slice_png(middle, None, colours={}, pixels=PIXELS, **place)
    value = card.labels[organ]
    labels = view_labels(case.label, case.case, label_map=case.label_map).array
    labels = keep_values(labels, [value])
    z = int(np.count_nonzero(labels, axis=(0, 1)).argmax())
    plane = labels[:, :, z]
    box = crop_box([plane])
    return slice_png(image.array[:, :, z][box], plane[box], colours={value: OUTLINE}, pixels=PIXELS, **place)
