"""Measuring how well a bank agrees with itself, without any network.

Its slices ask as queries do, their own patient left out, and the vote is compared with the labels that they have, and
with those of slices drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan

import numpy as np
import torch
from torch import Tensor

from ragsam.networks.supports import Supports, label_prior, resize_prior, vote_shares
from ragsam.retrieval.agreement import USUAL_BOOST, Agreement
from ragsam.retrieval.bank import Bank

#: Slices that ask, evenly spaced among those with an organ; more where every patient is to have some.
SLICES, SLICES_EACH, MOST_SLICES = 160, 5, 500
#: Slices that ask at once.
BATCH = 8
#: A patient is doubtful whose labels are found with less than this share of the median patient's Dice; patients are
#: judged of whom so many slices have asked, where there are so many of them.
DOUBTFUL_SHARE, JUDGED_SLICES, JUDGED_PATIENTS = 1 / 3, 3, 4
#: Where a bank has one patient, that patient's slices that are so far away answer.
FARTHER_SLICES = 2
#: How often labels are drawn at random.
DRAWS = 4
#: What is tried of how many times over a vote for an organ counts; of equally good ones the smallest is taken.
BOOSTS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)

Ask = Callable[[np.ndarray, Sequence[np.ndarray | None]], tuple[Supports, np.ndarray]]


def measured_agreement(bank: Bank, ask: Ask) -> Agreement:
    """Let slices of a bank ask the others.

    Slices whose neighbours do not annotate a class, or that do not themselves, say nothing of it. A patient's own
    slices are more alike than those of others: a bank of one patient gets the usual boost.

    Args:
        ask: what a search in the bank finds for some of its rows [n], of those that masks [N] allow: the supports, and
            the neighbours' rows [n, k].
    """
    rows, classes = _asking_rows(bank), bank.present.shape[1]
    patients, patient_of = np.unique(bank.patients[rows], return_inverse=True)
    boosts = BOOSTS if bank.patient_count > 1 else (USUAL_BOOST,)
    draw = np.random.default_rng(0)
    compared = [(rows, patient_of)]
    for _ in range(DRAWS):  # others' labels are counted behind the last patient
        compared.append((draw.permutation(rows), np.full_like(patient_of, len(patients))))
    counts = torch.zeros(len(patients) + 1, len(boosts), 3, classes, dtype=torch.float64)
    for start in range(0, len(rows), BATCH):
        block = slice(start, start + BATCH)
        votes, asked = _votes(bank, ask, rows[block], classes)
        found = [vote_shares(votes, boost).argmax(1) for boost in boosts]
        for others, places in compared:
            labels = torch.from_numpy(np.asarray(bank.labels[others[block]])).long()
            known = (asked & _annotated(bank, others[block], classes))[:, None]
            for index, chosen in enumerate(found):
                counted = overlaps(chosen, labels, classes) * known
                counts[:, index].index_add_(0, torch.from_numpy(places[block]), counted)
    own, chance = _dice(counts[:-1].sum(0)), _dice(counts[-1])
    best = int(own[:, 1:].nanmean(1).nan_to_num(0.0).argmax())
    return Agreement(
        dice=_shares(own[best]),
        chance=_shares(chance[best]),
        patients=bank.patient_count,
        boost=boosts[best],
        doubtful=_doubtful(patients, _dice(counts[:-1, best])[:, 1:].nanmean(1).numpy(), np.bincount(patient_of)),
    )


def _asking_rows(bank: Bank) -> np.ndarray:
    """Return the rows of the slices that ask."""
    rows = np.flatnonzero(bank.present[:, 1:].any(1))
    count = SLICES_EACH * bank.patient_count
    if not SLICES <= count <= MOST_SLICES:
        count = SLICES
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


def _shares(dice: Tensor) -> tuple[float | None, ...]:
    return tuple(None if isnan(value) else round(value, 4) for value in dice.tolist())


def _dice(counts: Tensor) -> Tensor:
    """Return the Dice [..., classes] of counts [..., 3, classes], see `overlaps`; NaN for a class that is not there."""
    right, found, there = counts.unbind(-2)
    return torch.where(there > 0, 2 * right / (found + there), torch.nan)


def _doubtful(patients: np.ndarray, dice: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Return the Dice of patients that is far below the others', see `DOUBTFUL_SHARE`."""
    judged = (asked >= JUDGED_SLICES) & ~np.isnan(dice)
    if judged.sum() < JUDGED_PATIENTS:
        return {}
    far = judged & (dice < DOUBTFUL_SHARE * np.median(dice[judged]))
    return {str(name): round(float(value), 4) for name, value in zip(patients[far], dice[far], strict=True)}


def _votes(bank: Bank, ask: Ask, rows: np.ndarray, classes: int) -> tuple[Tensor, Tensor]:
    """Return the vote of others on rows [n] of the bank [n, classes, S, S], and on which classes it is [n, classes]."""
    supports, near = ask(rows, [_allowed(bank, row) for row in rows])
    votes = resize_prior(label_prior(supports, classes), tuple(bank.labels.shape[1:]))
    answers = _annotated(bank, near, classes) & torch.from_numpy(near >= 0)[..., None]
    return votes, answers.any(1)


def _annotated(bank: Bank, rows: np.ndarray, classes: int) -> Tensor:
    """Return the classes [..., classes] that the slices of rows annotate."""
    if bank.annotated is None:
        return torch.ones(*rows.shape, classes, dtype=torch.bool)
    return torch.from_numpy(bank.annotated[rows][..., :classes])


def _allowed(bank: Bank, row: int) -> np.ndarray | None:
    """Return as a mask the rows that may answer a row: those of other patients, or the farther ones of its own."""
    if bank.patient_count > 1:
        return bank.allowed(without=[bank.patients[row]])
    return (bank.cases != bank.cases[row]) | (np.abs(bank.slices - bank.slices[row]) >= FARTHER_SLICES)


def overlaps(found: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Return for every class of labels [B, H, W] how many pixels are right, found and true: [B, 3, classes]."""
    right = torch.where(found == truth, found, classes)
    slots = classes + 1  # the last is of no class
    first = torch.arange(len(found), device=found.device)[:, None] * slots
    counted = []
    for labels in (right, found, truth):
        numbers = (labels.flatten(1) + first).flatten()
        counted.append(numbers.bincount(minlength=len(found) * slots).view(-1, slots)[:, :classes])
    return torch.stack(counted, dim=1).double().cpu()
