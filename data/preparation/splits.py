"""Patients dealt to training, validation and test, or to folds: all cases of a patient stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ragsam.data.cards.model import Card, SplitPart
from ragsam.data.datalist import Case
from ragsam.data.preparation.tables import Rows, column_of
from ragsam.errors import InputError

_DEFAULT_SHARE = {"test": 0.2, "validation": 0.1}


def split_cases(
    cases: Sequence[Case],
    card: Card,
    *,
    seed: int,
    validation: int | None = None,
    test: int | None = None,
    rows: Rows | None = None,
) -> dict[str, list[Case]]:
    """Split by the card, or by the numbers of patients asked for.

    Args:
        cases: in any order.
        card: its split is taken for a section that no number is asked for; a card without one: a fifth of the
            patients for the test, a tenth for validation.
        seed: of the patients dealt by number.
        validation: number of patients.
        test: number of patients.
        rows: the data set's manifest, for a split that goes by one of its columns.

    Returns:
        Cases under `training`, `validation` and `test`, in the order given.

    Raises:
        InputError: as `split_by_patient`; a case or patient of the card's split that is not among the cases.
    """
    patients = len({case.patient for case in cases})
    parts = {
        "test": _part(card, "test", test, patients),
        "validation": _part(card, "validation", validation, patients),
    }
    fixed: dict[str, str] = {}
    for section, part in parts.items():
        for patient in _members(part, cases, rows, f"card {card.name}: its {section} split", section):
            if fixed.setdefault(patient, section) != section:
                raise InputError(f"card {card.name}: its split puts one patient into validation and test; mend it")
    counts = {section: part.count or 0 for section, part in parts.items()}
    return split_by_patient(cases, **counts, seed=seed, fixed=fixed)


def split_by_patient(
    cases: Sequence[Case], *, validation: int, test: int, seed: int, fixed: Mapping[str, str] | None = None
) -> dict[str, list[Case]]:
    """Deal patients to test, validation and training.

    Args:
        cases: in any order; the split depends on the patients' names and the seed alone.
        validation: number of patients to deal.
        test: number of patients to deal.
        seed: of the shuffle.
        fixed: sections of patients that are not dealt.

    Returns:
        Cases under `training`, `validation` and `test`, in the order given.

    Raises:
        InputError: a negative number, or no patient left for training.
    """
    part = dict(fixed or {})
    patients = sorted({case.patient for case in cases} - part.keys())
    if min(validation, test) < 0:
        raise InputError(f"split: validation {validation}, test {test}; numbers of patients must not be negative")
    if validation + test >= len(patients):
        raise InputError(
            f"split: {test} test and {validation} validation patients of {len(patients)} leave none for training; "
            "ask for fewer"
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    part |= {patients[i]: "test" if n < test else "validation" for n, i in enumerate(order[: test + validation])}
    sections: dict[str, list[Case]] = {"training": [], "validation": [], "test": []}
    for case in cases:
        sections[part.get(case.patient, "training")].append(case)
    return sections


def deal_folds(presence: Mapping[str, frozenset[str]], folds: int, *, seed: int) -> dict[str, int]:
    """Deal patients to folds of the same size, to within one, so that every organ is spread over them.

    The patients with the rarest organ, or without the commonest, are dealt first, each to the fold that has fewest of
    them; then those with what is rarest among the patients left, and so on.

    Args:
        presence: organs by patient.
        folds: how many, at least 2.
        seed: breaks ties; the folds depend on the patients, their organs and the seed alone.

    Returns:
        The fold of every patient, from 0.

    Raises:
        InputError: fewer than two folds, or fewer patients than folds.

    Source:
        Sechidis et al., On the stratification of multi-label data, ECML PKDD 2011; here with folds of fixed size.
    """
    if not 2 <= folds <= len(presence):
        raise InputError(f"--folds: {folds} asked for {len(presence)} patients; take a number from 2 to the patients'")
    rng = np.random.default_rng(seed)
    organs = frozenset().union(*presence.values())
    # To lack an organ is a trait as much as to have it: where nearly all have it, those without are hard to spread.
    traits = {p: frozenset((organ, organ in presence[p]) for organ in organs) for p in presence}
    left = rng.permutation(sorted(presence)).tolist()
    room = [len(left) // folds + int(fold < len(left) % folds) for fold in rng.permutation(folds)]
    having: list[Counter[tuple[str, bool]]] = [Counter() for _ in range(folds)]
    fold_of: dict[str, int] = {}
    while left:
        counts = Counter(trait for patient in left for trait in traits[patient])
        rarest = min(counts, key=lambda trait: (counts[trait], trait), default=None)
        for patient in [patient for patient in left if rarest is None or rarest in traits[patient]]:
            fold = _neediest(having, room, rarest, traits[patient])
            fold_of[patient] = fold
            having[fold].update(traits[patient])
            room[fold] -= 1
        left = [patient for patient in left if patient not in fold_of]
    return fold_of


def _neediest(having: Sequence[Counter], room: Sequence[int], rarest: object, traits: frozenset) -> int:
    """Return the fold with room that has fewest of the rarest trait; of several, the one with fewest of all."""
    open_folds = [fold for fold in range(len(room)) if room[fold]]
    return min(open_folds, key=lambda f: (having[f][rarest], sum(having[f][trait] for trait in traits), -room[f]))


def _part(card: Card, section: str, asked: int | None, patients: int) -> SplitPart:
    if asked is not None:
        return SplitPart(count=asked)
    if card.split is None:
        return SplitPart(count=round(_DEFAULT_SHARE[section] * patients))
    return getattr(card.split, section) or SplitPart(count=0)


def _members(part: SplitPart, cases: Sequence[Case], rows: Rows | None, what: str, section: str) -> list[str]:
    """Return the patients that a part names; none where it deals a number."""
    patient_of = {case.case: case.patient for case in cases}
    if part.column is not None:
        cell_of = column_of(rows, part.column, what)
        return [patient for case, patient in patient_of.items() if cell_of[case] in part.values]
    there = patient_of.keys() | set(patient_of.values()) if part.patients else patient_of.keys()
    if missing := [name for name in (*part.cases, *part.patients) if name not in there]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}{more}: in {what}, but not here; add it, or split otherwise with --{section} N")
    return [patient_of[case] for case in part.cases] + list(part.patients)
