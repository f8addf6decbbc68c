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
    """Return at most 12 findings with pictures, pairs of volumes first; volumes that cannot be read are left out.

    Args:
        summary: of `ragsam.data.checks.survey.survey`.
        cases: the datalist's cases by name.
        card: colours and window.
    """
    found = []
    for title, text, wanted in (*_pairs(summary, cases), *_outliers(summary)):
        try:
            found.append(Finding(title, text, [(caption, _picture(cases[c], o, card)) for caption, c, o in wanted]))
        except InputError:  # told among the faults
            continue
        if len(found) == MAX_FINDINGS:
            break
    return found


def _pairs(summary: Mapping[str, Any], cases: Mapping[str, Case]) -> Iterator[tuple[str, str, list]]:
    """Yield title, text and [(caption, case, None)] of volumes that are there twice."""
    for pair in summary["duplicates"]:
        names, alike = pair["cases"], pair["similarity"]
        whose = "the same patient" if pair["same_patient"] else "two patients"
        how = "every voxel is the same" if alike == 1 else f"similarity {alike:.6f}"
        captions = [(f"{name}, patient {cases[name].patient}", name, None) for name in names]
        yield " and ".join(names), f"One volume under {whose}: {how}.", captions


def _outliers(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, list]]:
    """Yield title, text and [(caption, case, organ)] of volumes that stand out, with a usual case beside them."""
    for entry in summary["cases"]:
        for organ in entry["outliers"]:
            volume, counts = entry["organs_ml"][organ], summary["organs"][organ]
            usual = _typical(summary, organ)
            text = f"{volume:.3g} ml; the others have {counts['median_ml']:.3g} ml in the middle."
            first = f"{entry['case']}, {volume:.3g} ml", entry["case"], organ
            yield f"{readable(organ)} of {entry['case']}", text, [first, (f"{usual}, a usual one", usual, organ)]


def _typical(summary: Mapping[str, Any], organ: str) -> str:
    """Return the case whose volume of the organ is closest to the median."""
    median = summary["organs"][organ]["median_ml"]
    having = [case for case in summary["cases"] if (case["organs_ml"] or {}).get(organ)]
    return min(having, key=lambda case: abs(case["organs_ml"][organ] - median))["case"]


def _picture(case: Case, organ: str | None, card: Card) -> bytes:
    """Draw the slice where an organ is largest, cut to it and outlined; the middle slice for none."""
    image = view_image(case.image, case.case, fill_nonfinite=case.fill_nonfinite)
    place: dict[str, Any] = {"spacing_mm": image.spacing_mm[:2], "window": window_of(image.array, card.window)}
    if organ is None or case.label is None:
        return slice_png(image.array[:, :, image.array.shape[2] // 2], None, colours={}, pixels=PIXELS, **place)
    label = view_labels(case.label, case.case, label_map=case.label_map).array
    label = keep_values(label, [card.labels[organ]])
    z = int(np.count_nonzero(label, axis=(0, 1)).argmax())
    box = crop_box([label[:, :, z]])
    colours = {card.labels[organ]: OUTLINE}
    return slice_png(image.array[:, :, z][box], label[:, :, z][box], colours=colours, pixels=PIXELS, **place)
