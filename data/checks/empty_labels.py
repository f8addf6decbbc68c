"""Sections from whose labels nothing can be learned, or by which nothing can be measured."""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import partial

from ragsam.data.cards.model import Card

_TELL = "are the label numbers the card's (label_map), and the label files whole?"


def lacking_organs(card: Card, found: Iterable[Set[str]]) -> list[str]:
    """Return the organs of a card that no case has.

    Args:
        found: of every case the organs that it both annotates and has a labelled voxel of.
    """
    present: set[str] = set()
    for organs in found:
        present |= organs
    return [organ for organ in card.labels if organ not in present]


def empty_fault(what: str, card: Card, lacking: list[str]) -> str | None:
    """Return what is wrong with cases of a section, or of a new bank, that lack all organs; None if they do not."""
    if len(lacking) < card.num_classes:
        return None
    return f"{what}: no case has a labelled voxel of any organ; {_TELL}"


def training_fault(card: Card, lacking: list[str]) -> str | None:
    """Return what is wrong with a training section that lacks organs; None for nothing."""
    if not lacking:
        return None
    way_out = "label them in a training case, or take a card without them"
    some = f"training: no case has a labelled voxel of {', '.join(lacking)}; {way_out}"
    return empty_fault("training", card, lacking) or some


#: By section, what gives its fault; a validation may lack some organs.
SECTION_FAULTS = {"training": training_fault, "validation": partial(empty_fault, "validation")}
