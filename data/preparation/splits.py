"""Patients dealt to training, validation and test, or to folds: all cases of a patient stay together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, filterfalse

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.model import Card, SplitPart
from ragsam.data.datalist import Case
from ragsam.data.preparation.tables import Rows, column_of, first_of
from ragsam.errors import InputError

_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.1
#: Patients from which on some are kept for the test.
_TESTED = 5
logger = logging.getLogger(__name__)


def split_cases(
    cases: Sequence[Case],
    card: Card,
    *,
    seed: int,
    validation: int | None = None,
    test: int | None = None,
    rows: Rows | None = None,
) -> dict[str, list[Case]]:
    """Split by the card, or by the numbers of patients asked for, into `training`, `validation` and `test`.

    Args:
        cases: in any order, which they keep.
        card: its split is taken for a section that no number is asked for; a card without one: a fifth of the
            patients for the test, none of fewer than five; a tenth for validation, one at least of two or more.
        seed: of the patients dealt by number.
        validation, test: numbers of patients.
        rows: the data set's manifest, for a split that goes by one of its columns.

    Raises:
        InputError: as `split_by_patient`; a case or patient of the card's split that is not among the cases.
    """
    fixed: dict[str, str] = {}
    counts = {}
    if card.split is None:
        validation, test = _usual(len({case.patient for case in cases}), validation, test)
    for section, asked in (("test", test), ("validation", validation)):
        part = (card.split and getattr(card.split, section)) or SplitPart()
        if asked is not None:
            part = SplitPart(count=asked)
        counts[section] = part.count or 0
        members = _members(part, cases, rows, f"card {card.name}: its {section} split", section)
        if part.column is not None and not members:
            logger.warning("prepare: card %s: its split has no %s case among these", card.name, section)
        for patient in members:
            if fixed.setdefault(patient, section) != section:
                raise InputError(f"card {card.name}: its split puts one patient into validation and test; correct it")
    return split_by_patient(cases, **counts, seed=seed, fixed=fixed)


def _usual(patients: int, validation: int | None, test: int | None) -> tuple[int, int]:
    """Return how many patients are for validation and test, the usual shares where no number is asked for."""
    if test is None:
        test = round(_TEST_SHARE * patients) if patients >= _TESTED else 0
    if validation is None:
        left = patients - test
        validation = min(max(1, round(_VALIDATION_SHARE * patients)), max(0, left - 1))
    return validation, test


def _members(part: SplitPart, cases: Sequence[Case], rows: Rows | None, what: str, section: str) -> list[str]:
    """Return the patients that a part names; none where it deals a number."""
    patient_of = {case.case: case.patient for case in cases}
    if part.column is not None:
        cells = column_of(rows, part.column, what)
        return [patient for case, patient in patient_of.items() if cells[case] in part.values]
    known = set(patient_of)
    if part.patients:
        known.update(patient_of.values())
    missing = list(filterfalse(known.__contains__, (*part.cases, *part.patients)))
    if missing:
        told = first_of(missing)
        raise InputError(f"{told}: in {what}, but not here; add it, or split otherwise with --{section} N")
    return [*map(patient_of.get, part.cases), *part.patients]


def split_by_patient(
    cases: Sequence[Case], *, validation: int, test: int, seed: int, fixed: Mapping[str, str] | None = None
) -> dict[str, list[Case]]:
    """Deal patients to test, validation and training, by their names and the seed alone.

    `fixed` has the sections of patients that are not dealt.

    Raises:
        InputError: a negative number, or no patient left for training, unless all are for the test.
    """
    section_of = dict(fixed or {})
    patients = sorted({case.patient for case in cases} - section_of.keys())
    if min(validation, test) < 0:
        raise InputError(f"split: validation {validation}, test {test}; numbers of patients must not be negative")
    all_test = validation == 0 and test == len(patients) and {"test"}.issuperset(section_of.values())
    if validation + test >= len(patients) and not all_test:
        raise InputError(
            f"split: {test} test and {validation} validation patients of {len(patients)} leave none for training; "
            "ask for fewer with --test N and --validation N"
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    dealt = ["test"] * test + ["validation"] * validation
    for i, section in zip(order, dealt, strict=False):
        section_of[patients[i]] = section
    sections: dict[str, list[Case]] = {"training": [], "validation": [], "test": []}
    for case in cases:
        sections[section_of.get(case.patient, "training")].append(case)
    return sections


def deal_folds(presence: Mapping[str, frozenset[str]], folds: int, *, seed: int) -> dict[str, int]:
    """Deal patients to folds, from 0, of the same size to within one, so that every organ is spread over them.

    The patients with the rarest organ, or without the commonest, are dealt first, each to the fold that has fewest of
    them; then those with what is rarest among the patients left, and so on.

    Args:
        presence: organs by patient.
        seed: breaks ties; the folds depend on the patients, their organs and the seed alone.

    Raises:
        InputError: fewer than two folds, or fewer patients than folds.

    Source:
        Sechidis et al., On the stratification of multi-label data, ECML PKDD 2011; here with folds of fixed size.
    """
    if not 2 <= folds <= len(presence):
        raise InputError(f"--folds: {folds} asked for {len(presence)} patients; take a number from 2 to the patients'")
    rng = np.random.default_rng(seed)
    # To lack an organ is a trait as much as to have it: where nearly all have it, those without are hard to spread.
    organs = frozenset().union(*presence.values())
    traits = {}
    for patient, own in presence.items():
        traits[patient] = frozenset((organ, organ in own) for organ in organs)
    left = rng.permutation(sorted(presence)).tolist()
    smallest, remainder = divmod(len(left), folds)
    room = smallest + (rng.permutation(folds) < remainder)
    having: list[Counter[tuple[str, bool]]] = [Counter() for _ in range(folds)]
    fold_of: dict[str, int] = {}
    while left:
        counts = Counter(chain.from_iterable(traits[patient] for patient in left))
        rarest = min(counts, key=lambda trait: (counts[trait], trait), default=None)
        for patient in left:
            if rarest is None or rarest in traits[patient]:
                fold = _neediest(having, room, rarest, traits[patient])
                fold_of[patient] = fold
                having[fold].update(traits[patient])
                room[fold] -= 1
        left = [patient for patient in left if patient not in fold_of]
    return fold_of


def _neediest(having: Sequence[Counter], room: NDArray[np.int64], rarest: object, traits: frozenset) -> int:
    """Return the fold with room that has fewest of the rarest trait; of several, the one with fewest of all."""

    def need(fold: int) -> tuple[int, int, int]:
        all_traits = sum(having[fold][trait] for trait in traits)
        return having[fold][rarest], all_traits, -room[fold]

    return min(np.flatnonzero(room).tolist(), key=need)
