"""Pseudo-labels: what a network wrote on volumes that nobody has labelled, and where it is learnt from.

A datalist holds them in the section `pseudo_labelled`. A case may say which organs are learnt from in which slices:
`"learnt": {"axis": 2, "slices": {"liver": [[12, 40]]}}`, first and last slice, counted along that axis of RAS. Where it
says nothing all of it is learnt from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ragsam.data.annotation import annotated_classes
from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case, Datalist, load_datalist
from ragsam.errors import InputError

SECTION = "pseudo_labelled"
KEY = "learnt"


def pseudo_cases(
    path: str | os.PathLike[str] | None, datalist: str | os.PathLike[str], card: Card, slice_axis: int
) -> tuple[Case, ...]:
    """Return the pseudo-labelled cases of a datalist; none if there is no datalist.

    Args:
        path: of their datalist.
        datalist: path of the training's own datalist.
        slice_axis: of the training.

    Raises:
        InputError: a faulty datalist, a patient who validates or is tested, or slices of another axis.
    """
    if path is None:
        return ()
    cases = load_datalist(path, card).section(SECTION)
    require_apart(cases, load_datalist(datalist))
    for case in cases:
        axis = _learnt(case).get("axis", slice_axis)
        if axis != slice_axis:
            raise InputError(f"{case.case}: its pseudo-labels are for slice_axis {axis}, the training has {slice_axis}")
    return cases


def require_apart(cases: Sequence[Case], datalist: Datalist) -> None:
    """Refuse cases that no training may see.

    Raises:
        InputError: a patient of the datalist's validation or test, or a name that one of its cases has.
    """
    home_of: dict[str, str] = {}
    names: dict[str, str] = {}
    for section, members in datalist.sections.items():
        for member in members:
            names[member.case.casefold()] = section
            if section in ("validation", "test"):
                home_of[member.patient] = section
    for case in cases:
        if case.patient in home_of:
            home = home_of[case.patient]
            raise InputError(f"{case.case}: its patient is in {home} of {datalist.path.name}; leave it out")
        if case.case.casefold() in names:
            home = names[case.case.casefold()]
            raise InputError(f"{case.case}: a case of {home} in {datalist.path.name} has this name; rename it")


def learnt_classes(case: Case, card: Card, slices: int) -> Tensor:
    """Return which classes are learnt from in each slice of a case: [slices, K + 1], bool; background always is.

    Raises:
        InputError: an organ that is not on the card, or slices that the volume does not have.
    """
    mask = annotated_classes(case, card).repeat(slices, 1)
    if KEY not in case.extra:
        return mask
    mask[:, 1:] = False
    for organ, ranges in _learnt(case)["slices"].items():
        if organ not in card.labels:
            raise InputError(f"{case.case}: {KEY} names {organ!r}, not on card {card.name}")
        for pair in ranges:
            first, last = _range(pair, slices, case.case, organ)
            mask[first : last + 1, card.labels[organ]] = True
    return mask


def learnt_entry(mask: NDArray[np.bool_], card: Card, slice_axis: int) -> dict[str, Any]:
    """Return what a datalist says of a case for `learnt_classes` to find: mask [slices, K + 1]."""
    slices = {}
    for organ, value in card.labels.items():
        steps = np.diff(mask[:, value].astype(np.int8), prepend=0, append=0)
        firsts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
        if len(firsts):
            slices[organ] = [[int(first), int(end) - 1] for first, end in zip(firsts, ends, strict=True)]
    return {KEY: {"axis": slice_axis, "slices": slices}}


def _learnt(case: Case) -> Mapping[str, Any]:
    """Return what a case says of its slices."""
    content = case.extra.get(KEY, {"slices": {}})
    if not isinstance(content, Mapping) or not isinstance(content.get("slices"), Mapping):
        raise InputError(f"{case.case}: {KEY} is {str(content)[:60]!r}; it must have axis and slices")
    return content


def _range(pair: Any, slices: int, case: str, organ: str) -> tuple[int, int]:
    sound = isinstance(pair, list) and list(map(type, pair)) == [int, int]
    if not sound or not 0 <= pair[0] <= pair[1] < slices:
        raise InputError(f"{case}: {KEY}: {organ}: {pair!r} is not the first and last slice of the volume's {slices}")
    return pair[0], pair[1]


def counted(cases: Sequence[Case], learnt: Sequence[Tensor]) -> dict[str, int] | None:
    """Return how much is learnt from pseudo-labels: volumes, their patients, slices of them; None for nothing."""
    if not cases:
        return None
    slices = sum(int(mask[:, 1:].any(1).sum()) for mask in learnt)
    return {"volumes": len(cases), "patients": len({case.patient for case in cases}), "slices": slices}
