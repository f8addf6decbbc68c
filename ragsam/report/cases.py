"""The cases a report shows: worst first, each with its telling slices and the neighbours retrieved for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair
from ragsam.report.case_volumes import CaseVolumes, read_case
from ragsam.report.figures import difference_png, organ_colours, slice_png
from ragsam.report.trace_file import neighbours_of
from ragsam.report.views import View, crop_box, telling_slices, view_image, view_labels, window_of

NEIGHBOURS = 4
NEIGHBOUR_PIXELS = 260
_CACHED_VOLUMES = 4

Picture = tuple[str, bytes]
LoadNeighbour = Callable[[str], tuple[View, View | None] | None]


def worst_first(metrics: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], float | None]]:
    """Return metrics.json's cases with their mean Dice, the lowest first, without a score last; ties by name.

    A case's mean is over the organs to which the protocol gives a Dice and that count in the mean over organs.
    """
    left_out = metrics["summary"]["organs_left_out"]
    scored, unscored = [], []
    for case in sorted(metrics["cases"], key=itemgetter("case")):
        found = [scores["dice"] for organ, scores in case["organs"].items() if organ not in left_out]
        dice = np.array(found, dtype=float)
        dice = dice[np.isfinite(dice)]
        if len(dice):
            scored.append((case, float(dice.mean())))
        else:
            unscored.append((case, None))
    return sorted(scored, key=itemgetter(1)) + unscored


def only_status(case: Mapping[str, Any]) -> str | None:
    """Return the one status that all annotated organs of a case share, None if they differ."""
    statuses = {entry["status"] for entry in case["organs"].values()} - {"not_annotated"}
    if len(statuses) != 1:
        return None
    return statuses.pop()


def neighbour_loader(support_cases: Mapping[str, Case]) -> LoadNeighbour:
    """Return a function that gives a support case's image and label views by pseudonym, None if it is not at hand.

    Labels on another grid are None. The last few volumes are kept, since neighbouring slices share their neighbours.
    """

    @lru_cache(maxsize=_CACHED_VOLUMES)
    def load(pseudonym: str) -> tuple[View, View | None] | None:
        if pseudonym not in support_cases:
            return None
        case = support_cases[pseudonym]
        labels = None
        try:
            # The pseudonym, not the case's name, so that no message can undo it.
            image = view_image(case.image, pseudonym, fill_nonfinite=case.fill_nonfinite)
            if case.label is not None:
                labels = view_labels(case.label, pseudonym, label_map=case.label_map)
        except InputError:
            return None
        return image, None if labels is None else labels.placed_on(image)

    return load


def case_section(
    scores: Mapping[str, Any], pair: CasePair, card: Card, *, trace: Mapping[str, Any], load_neighbour: LoadNeighbour
) -> dict[str, Any]:
    """Return what the page shows of one case.

    Scores are the case's entry in metrics.json, the trace is retrieval.json or empty.

    Returns:
        notes: lines about what could not be shown; novelty: the trace's, or None; slices: for each z, why, panels
        [(title, PNG)] and neighbours.
    """
    volumes = read_case(pair, card)
    traced = trace.get("cases", {}).get(scores["case"], {})
    section = {"notes": volumes.notes, "novelty": traced.get("novelty"), "slices": []}
    if volumes.expected is None or volumes.found is None:
        return section
    # Neighbours of sagittal or coronal slices have no place beside the axial ones that are shown here.
    axial = bool(traced) and traced.get("axis", 2) == 2
    for z, why in telling_slices(volumes.expected, volumes.found):
        neighbours = []
        if axial:
            neighbours = neighbours_of(trace, scores["case"], z)
            neighbours = sorted(neighbours, key=itemgetter("weight", "similarity"), reverse=True)
        shown = {
            "z": z,
            "why": why,
            "panels": _panels(z, volumes, card),
            "traced": axial,
            "neighbours": [_neighbour(entry, card, load_neighbour) for entry in neighbours[:NEIGHBOURS]],
            "more_neighbours": max(0, len(neighbours) - NEIGHBOURS),
        }
        section["slices"].append(shown)
    return section


def _panels(z: int, volumes: CaseVolumes, card: Card) -> list[Picture]:
    """Return the pictures of a slice, cropped to what is labelled."""
    reference = volumes.expected[:, :, z]
    prediction = volumes.found[:, :, z]
    box = crop_box([reference, prediction])
    reference = reference[box]
    prediction = prediction[box]
    place: dict[str, Any] = {"spacing_mm": volumes.spacing_mm[:2], "window": volumes.window}
    colours = organ_colours(card)
    panels = []
    plane = None
    if volumes.image is not None:
        plane = volumes.image.array[:, :, z][box]
        panels.append(("image", slice_png(plane, None, colours={}, **place)))
    panels.append(("reference", slice_png(plane, reference, colours=colours, **place)))
    panels.append(("prediction", slice_png(plane, prediction, colours=colours, **place)))
    panels.append(("difference", difference_png(plane, reference, prediction, **place)))
    return panels


def _neighbour(entry: Mapping[str, Any], card: Card, load: LoadNeighbour) -> dict[str, Any]:
    """Return a neighbour's picture, None if its volume is not at hand, with what the trace says of it."""
    png = None
    views = load(entry["case"])
    if views is not None and entry["slice"] in range(views[0].array.shape[2]):
        png = _neighbour_png(*views, entry["slice"], card)
    return {key: entry[key] for key in ("patient", "case", "slice", "similarity", "weight")} | {"png": png}


def _neighbour_png(image: View, labels: View | None, z: int, card: Card) -> bytes:
    """Draw a neighbour's slice, cropped to what is labelled where there are labels."""
    plane = image.array[:, :, z]
    labelled = None
    if labels is not None:
        labelled = labels.array[:, :, z]
        box = crop_box([labelled])
        plane = plane[box]
        labelled = labelled[box]
    return slice_png(
        plane,
        labelled,
        spacing_mm=image.spacing_mm[:2],
        window=window_of(image.array, card.window),
        colours=organ_colours(card),
        pixels=NEIGHBOUR_PIXELS,
    )
