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

#: Slices that ask, evenly spaced among those with an organ, and how many at once. They are as many as give every
#: patient some, if that takes no more than `MOST`.
SLICES, BATCH = 160, 8
EACH, MOST = 5, 500
#: Of so many patients, of whom so many slices have asked, those are doubtful whose labels are found with less than this
#: share of the Dice of half of them.
PATIENTS, LEAST, SHARE = 4, 3, 1 / 3
#: Where a bank has one patient, that patient's slices that are so far away answer.
APART = 2
#: How often labels are drawn at random.
DRAWS = 4
#: What is tried of how many times over a vote for an organ counts; of equally good ones the smallest is taken.
BOOSTS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)

Ask = Callable[[np.ndarray, Sequence[np.ndarray | None]], tuple[Supports, np.ndarray]]


def measured_agreement(bank: Bank, ask: Ask) -> Agreement:
    """Let slices of a bank ask the others.

    Slices whose neighbours do not annotate a class, or that do not themselves, say nothing of it. A patient's own
    slices lie on one another as others' do not: of one alone the boost is the usual one.

    Args:
        ask: what a search in the bank finds for some of its rows [n], of those that masks [N] allow: the supports, and
            the neighbours' rows [n, k].
    """
    classes = bank.present.shape[1]
    rows = np.flatnonzero(bank.present[:, 1:].any(1))
    count = SLICES if EACH * bank.patient_count > MOST else max(SLICES, EACH * bank.patient_count)
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
    patients, of = np.unique(bank.patients[rows], return_inverse=True)
    draw = np.random.default_rng(0)
    drawn = [draw.permutation(rows) for _ in range(DRAWS)]
    boosts = BOOSTS if bank.patient_count > 1 else (USUAL_BOOST,)
    # Of every patient, and at the end with others' labels.
    counts = torch.zeros(len(patients) + 1, len(boosts), 3, classes, dtype=torch.float64)
    for start in range(0, len(rows), BATCH):
        block = slice(start, start + BATCH)
        votes, asked = _votes(bank, ask, rows[block], classes)
        found = [vote_shares(votes, boost).argmax(1) for boost in boosts]
        for compared in (rows, *drawn):
            labels = torch.from_numpy(np.asarray(bank.labels[compared[block]])).long()
            known = asked & _annotated(bank, compared[block], classes)
            places = of[block] if compared is rows else np.full(len(labels), -1)
            for index, chosen in enumerate(found):
                for place, one, label, both in zip(places, chosen, labels, known, strict=True):
                    counts[place, index] += overlaps(one, label, classes) * both
    own, chance = _dice(counts[:-1].sum(0)), _dice(counts[-1])
    best = int(own[:, 1:].nanmean(1).nan_to_num(0.0).argmax())
    shares = (tuple(None if isnan(x) else round(x, 4) for x in dice[best].tolist()) for dice in (own, chance))
    by_patient = _dice(counts[:-1, best])[:, 1:].nanmean(1).numpy()
    return Agreement(*shares, bank.patient_count, boosts[best], _doubtful(patients, by_patient, np.bincount(of)))


def _dice(counts: Tensor) -> Tensor:
    """Return the Dice [..., classes] of counts [..., 3, classes], see `overlaps`; NaN for a class that is not there."""
    right, found, there = counts.unbind(-2)
    return torch.where(there > 0, 2 * right / (found + there), torch.nan)


def _doubtful(patients: np.ndarray, dice: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Return the Dice of patients that is far below the others', see `SHARE`."""
    judged = (asked >= LEAST) & ~np.isnan(dice)
    if judged.sum() < PATIENTS:
        return {}
    far = judged & (dice < SHARE * np.median(dice[judged]))
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
    return (bank.cases != bank.cases[row]) | (np.abs(bank.slices - bank.slices[row]) >= APART)


def overlaps(found: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Return for every class how many pixels are right, found and true: [3, classes]."""
    right = torch.where(found == truth, found, classes)
    counted = [torch.bincount(x.flatten(), minlength=classes)[:classes] for x in (right, found, truth)]
    return torch.stack(counted).double().cpu()
