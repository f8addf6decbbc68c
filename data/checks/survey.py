"""A whole data set looked at: every case's faults, what stands out, and which volumes are there twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.data.checks.duplicates import find_duplicates
from ragsam.data.checks.inspect_case import CaseInspection, failed_case, inspect_case
from ragsam.data.checks.parallel import run_each
from ragsam.data.datalist import Case, Datalist

_OUTLIER = 3.5  # robust deviations, Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993)
_MIN_SPREAD = 0.05  # of the logarithm: volumes within some per cent of each other are alike, however close the rest
_MIN_VALUES = 8


class Entry(NamedTuple):
    """A case and its section, as it travels to a process."""

    case: Case
    section: str


def survey(
    datalist: Datalist,
    card: Card,
    *,
    faults: Sequence[str] = (),
    jobs: int = 1,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Check and measure every case of a datalist; the result does not depend on the number of processes.

    Args:
        datalist: as `read_datalist` gives it.
        card: its card.
        faults: those of the datalist itself, told first.
        jobs: processes.
        done: called with the number of cases done, as it grows.

    Returns:
        The content of the JSON summary, as described in `docs/files.md`. It holds no NaN.
    """
    entries = [Entry(case, section) for section, cases in datalist.sections.items() for case in cases]
    look, died = partial(_inspect, card=card), lambda entry: failed_case(entry.case, entry.section)
    cases = run_each(look, entries, jobs=jobs, crashed=died, done=done)
    ranges = {organ: volume_range_ml(_volumes(cases, organ)) for organ in card.labels}
    twice, doubled = _duplicates(cases)
    return {
        "card": card.name,
        "n_cases": len(cases),
        "n_patients": len({case.patient for case in cases}),
        "n_cases_at_fault": sum(bool(case.faults) for case in cases),
        "sections": {name: len(part) for name, part in datalist.sections.items()},
        "faults": [*faults, *(line for case in cases for line in case.faults), *doubled],
        "warnings": [line for case in cases for line in case.warnings] + _same_patient(cases, twice),
        "notes": [*_outlier_notes(cases, ranges), *_window_notes(cases, card)],
        "duplicates": twice,
        "organs": {organ: _organ(cases, organ, ranges[organ]) for organ in card.labels},
        "cases": [_case_entry(case, ranges) for case in cases],
    }


def volume_range_ml(volumes_ml: Sequence[float]) -> tuple[float, float] | None:
    """Return the volumes beyond which one stands out: 3.5 robust deviations of the logarithm from the median.

    The deviation is 1.4826 times the median absolute one, at least 0.05. Fewer than 8 volumes have no range: None.

    Args:
        volumes_ml: of one organ, without empty ones.
    """
    if len(volumes_ml) < _MIN_VALUES:
        return None
    logs: NDArray[np.float64] = np.log(np.asarray(volumes_ml, dtype=np.float64))
    median = float(np.median(logs))
    reach = _OUTLIER * max(1.4826 * float(np.median(np.abs(logs - median))), _MIN_SPREAD)
    return float(np.exp(median - reach)), float(np.exp(median + reach))


def _inspect(entry: Entry, card: Card) -> CaseInspection:
    return inspect_case(entry.case, entry.section, card)


def _volumes(cases: Sequence[CaseInspection], organ: str) -> list[float]:
    """Return the organ's volumes in ml, without empty ones."""
    return [volume for case in cases if (volume := (case.organs_ml or {}).get(organ, 0.0)) > 0]


def _stands_out(volume_ml: float, limits: tuple[float, float] | None) -> bool:
    return limits is not None and volume_ml > 0 and not limits[0] <= volume_ml <= limits[1]


def _organ(
    cases: Sequence[CaseInspection], organ: str, limits: tuple[float, float] | None
) -> dict[str, int | float | list[float] | None]:
    """Return in how many cases the organ is annotated and present, and its usual volume."""
    volumes = _volumes(cases, organ)
    return {
        "annotated": sum(organ in (case.organs_ml or {}) for case in cases),
        "present": len(volumes),
        "median_ml": float(np.median(volumes)) if volumes else None,
        "usual_ml": None if limits is None else list(limits),
    }


def _case_entry(case: CaseInspection, ranges: Mapping[str, tuple[float, float] | None]) -> dict[str, Any]:
    organs = case.organs_ml or {}
    return {
        "case": case.case,
        "patient": case.patient,
        "section": case.section,
        "faults": len(case.faults),
        "shape": case.shape and list(case.shape),
        "spacing_mm": case.spacing_mm and list(case.spacing_mm),
        "orientation": case.orientation,
        "voxel_type": case.voxel_type,
        "intensity": case.intensity and dict(case.intensity),
        "organs_ml": case.organs_ml and dict(case.organs_ml),
        "outliers": [organ for organ, volume in organs.items() if _stands_out(volume, ranges[organ])],
    }


def _outlier_notes(cases: Sequence[CaseInspection], ranges: Mapping[str, tuple[float, float] | None]) -> list[str]:
    notes = []
    for case in cases:
        for organ, volume in (case.organs_ml or {}).items():
            if limits := _stands_out(volume, ranges[organ]) and ranges[organ]:
                usual = f"the others' usual {limits[0]:.3g} to {limits[1]:.3g} ml"
                notes.append(f"{case.case}: {organ} has {volume:.3g} ml, outside {usual}; look at its label")
    return notes


def _window_notes(cases: Sequence[CaseInspection], card: Card) -> list[str]:
    """Return the note of cases that would be all black or all white in the card's window."""
    if card.window is None:
        return []
    low, high = card.window
    return [
        f"{c.case}: intensities {c.intensity['p0.5']:.4g} to {c.intensity['p99.5']:.4g} lie outside the card's window "
        f"{low:g} to {high:g}; are they Hounsfield units?"
        for c in cases
        if c.intensity and (c.intensity["p99.5"] <= low or c.intensity["p0.5"] >= high)
    ]


def _duplicates(cases: Sequence[CaseInspection]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return all pairs of near-identical volumes, and the faults of those under different patients, one a volume."""
    pairs: list[dict[str, Any]] = []
    faults: dict[int, str] = {}
    for i, j, similarity in find_duplicates([case.fingerprint for case in cases]):
        first, second = cases[i], cases[j]
        same_patient = first.patient == second.patient
        pairs.append({"cases": [first.case, second.case], "same_patient": same_patient, "similarity": similarity})
        if not same_patient:
            faults.setdefault(j, f"{_pair_line(pairs[-1])} of another patient; name one patient, or remove one")
    return pairs, list(faults.values())


def _same_patient(cases: Sequence[CaseInspection], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the warnings of pairs within a patient: they count twice, but leak nothing."""
    return [f"{_pair_line(pair)} of the same patient; is one a copy?" for pair in pairs if pair["same_patient"]]


def _pair_line(pair: Mapping[str, Any]) -> str:
    first, second = pair["cases"]
    alike = pair["similarity"]
    how = "the same voxels as" if alike == 1 else f"nearly the same volume (similarity {alike:.6f}) as"
    return f"{second}: {how} {first}"
