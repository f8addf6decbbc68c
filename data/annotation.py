"""Which classes a case annotates."""

from __future__ import annotations

import torch
from torch import Tensor

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case


def annotated_classes(case: Case, card: Card) -> Tensor:
    """Return which classes a case annotates: [K + 1], bool, True for background and for every organ without a list."""
    names = card.labels if case.annotated is None else case.annotated
    mask = torch.zeros(card.num_classes + 1, dtype=torch.bool)
    mask[[0, *(card.labels[name] for name in names)]] = True
    return mask
