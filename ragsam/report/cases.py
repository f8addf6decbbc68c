"""The cases a report shows: worst first, each with its telling slices and the neighbours retrieved for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from functools import lru_cache
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.report.case_volumes import Sight, read_case
from ragsam.report.figures import difference_png, slice_png
from ragsam.report.views import View, crop_box, telling_slices, view_image, view_labels, window_of

NEIGHBOURS = 4
NEIGHBOUR_PIXELS = 260
_CACHED_VOLUMES = 4

Picture = tuple[str, bytes]


def worst_first(metrics: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], float | None]]:
    """Return metrics.json's cases with their mean Dice, the lowest first, without a score last; ties by name.

    A case's mean is over the organs to which the protocol gives a Dice and that count in the mean over organs.
    """
    left_out = set(metrics["summary"]["organs_left_out"])
    scored = [(case, _mean_dice(case, left_out)) for case in metrics["cases"]]
    return sorted(scored, key=lambda item: (item[1] is None, item[1] or 0.0, item[0]["case"]))


def only_status(case: Mapping[str, Any]) -> str | None:
    """Return the one status that all annotated organs of a case share, None where they differ."""
    statuses = {entry["status"] for entry in case["organs"].values()} - {"not_annotated"}
    return statuses.pop() if len(statuses) == 1 else None


def neighbour_loader(support_cases: Mapping[str, Case] | None) -> Callable[[str], tuple[View, View | None] | None]:
    """Return a function that gives a support case's image and label views by pseudonym, None where it is not at hand.

    The last few volumes are kept, since neighbouring slices share their neighbours.
    """

    @lru_cache(maxsize=_CACHED_VOLUMES)
    def load(pseudonym: str) -> tuple[View, View | None] | None:
        case = (support_cases or {}).get(pseudonym)
        if case is None:
            return None
        try:
            # The pseudonym, not the case's name, so that no message can undo it.
            image = view_image(case.image, pseudonym, fill_nonfinite=case.fill_nonfinite)
            if case.label is None:
                return image, None
            return image, view_labels(case.label, pseudonym, label_map=case.label_map)
        except InputError:
            return None

    return load


def case_section(
    scores: Mapping[str, Any],
    pair: CasePair,
    card: Card,
    *,
    trace: Mapping[str, Any] | None,
    load_neighbour: Callable[[str], tuple[View, View | None] | None],
) -> dict[str, Any]:
    """Return what the page shows of one case.

    Args:
        scores: the case's entry in metrics.json.
        pair: its files.
        card: colours and window.
        trace: retrieval.json, or None.
        load_neighbour: see `neighbour_loader`.

    Returns:
        notes: lines about what could not be shown; novelty: the trace's, or None; slices: for each z, why, panels
        [(title, PNG)] and neighbours.
    """
    sight = read_case(pair, card)
    neighbours = ((trace or {}).get("cases") or {}).get(scores["case"])
    novelty = (neighbours or {}).get("novelty")
    if sight.expected is None or sight.found is None:
        return {"notes": sight.notes, "novelty": novelty, "slices": []}
    if (neighbours or {}).get("axis", 2) != 2:
        neighbours = None  # of sagittal or coronal slices; those shown here are axial
    slices = [
        {
            "z": z,
            "why": why,
            "panels": _panels(z, sight, card),
            "traced": neighbours is not None,
            "neighbours": [_neighbour(entry, card, load_neighbour) for entry in _traced(neighbours, z)[:NEIGHBOURS]],
            "more_neighbours": max(0, len(_traced(neighbours, z)) - NEIGHBOURS),
        }
        for z, why in telling_slices(sight.expected, sight.found)
    ]
    return {"notes": sight.notes, "novelty": novelty, "slices": slices}


def _panels(z: int, sight: Sight, card: Card) -> list[Picture]:
    first, second = sight.expected[:, :, z], sight.found[:, :, z]
    box = crop_box([first, second])
    plane = None if sight.image is None else sight.image.array[:, :, z][box]
    first, second = first[box], second[box]
    place: dict[str, Any] = {"spacing_mm": sight.spacing_mm[:2], "window": sight.window}
    colours = {organ.value: organ.colour for organ in card.organs}
    panels = [
        ("reference", slice_png(plane, first, colours=colours, **place)),
        ("prediction", slice_png(plane, second, colours=colours, **place)),
        ("difference", difference_png(plane, first, second, **place)),
    ]
    return panels if plane is None else [("image", slice_png(plane, None, colours={}, **place)), *panels]


def _neighbour(
    entry: Mapping[str, Any], card: Card, load: Callable[[str], tuple[View, View | None] | None]
) -> dict[str, Any]:
    """Return a neighbour's picture, None where its volume is not at hand, with what the trace says of it."""
    views, z, png = load(str(entry["case"])), int(entry["slice"]), None
    if views is not None and 0 <= z < views[0].array.shape[2]:
        image, labels = views
        fits = labels is not None and labels.array.shape == image.array.shape
        plane = labels.array[:, :, z] if labels is not None and fits else None
        box = crop_box([plane]) if plane is not None else (slice(None), slice(None))
        png = slice_png(
            image.array[:, :, z][box],
            None if plane is None else plane[box],
            spacing_mm=image.spacing_mm[:2],
            window=window_of(image.array, card.window),
            colours={organ.value: organ.colour for organ in card.organs},
            pixels=NEIGHBOUR_PIXELS,
        )
    return {key: entry.get(key) for key in ("patient", "case", "slice", "similarity", "weight")} | {"png": png}


def _traced(neighbours: Mapping[str, Any] | None, z: int) -> list[Mapping[str, Any]]:
    """Return a slice's neighbours, the heaviest first."""
    entries: Iterable[Mapping[str, Any]] = ((neighbours or {}).get("slices") or {}).get(str(z)) or []
    return sorted(entries, key=lambda e: (-(e.get("weight") or 0.0), -(e.get("similarity") or 0.0)))


def _mean_dice(case: Mapping[str, Any], left_out: Set[str]) -> float | None:
    values = [entry["dice"] for organ, entry in case["organs"].items() if organ not in left_out]
    scores = [value for value in values if value is not None]
    return float(np.mean(scores)) if scores else None
