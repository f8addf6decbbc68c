"""A whole data set looked at: every case's faults, what stands out, and which volumes are there twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.data.checks.duplicates import find_duplicates
from ragsam.data.checks.empty_labels import SECTION_FAULTS, lacking_organs
from ragsam.data.checks.inspect_case import CaseInspection, failed_case, inspect_case
from ragsam.data.checks.parallel import run_each
from ragsam.data.datalist import Case, Datalist

_OUTLIER = 3.5  # robust deviations, Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993)
_MIN_SPREAD = 0.05  # of the logarithm: volumes within some per cent of each other are alike, however close the rest
_MIN_VALUES = 8
_USUAL_TIMES = 5.0  # of the median spacing; thick and thin slices differ by less, units by ten
_MIN_SPACINGS = 3


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
        faults: those of the datalist itself, reported first.
        done: called with the number of cases done, as it grows.

    Returns:
        The content of the JSON summary, as described in `docs/reference/datalist.md`. It holds no NaN.
    """
    entries = [(case, section) for section, cases in datalist.sections.items() for case in cases]
    look = partial(_inspect, card=card)
    cases = run_each(look, entries, jobs=jobs, crashed=lambda entry: failed_case(*entry), done=done)
    organs = {organ: _organ(cases, organ) for organ in card.labels}
    told: dict[str, list[str]] = {"faults": [*faults], "warnings": [], "notes": []}
    described = []
    for case in cases:
        told["faults"] += case.faults
        told["warnings"] += case.warnings
        described.append(_case_entry(case, organs, told["notes"]))
    told["faults"] += _empty_sections(cases, card)
    told["notes"] += _spacing_notes(cases)
    if card.window is not None:
        told["notes"] += _window_notes(cases, *card.window)
    duplicates = _duplicates(cases, told)
    return {
        "card": card.name,
        "n_cases": len(cases),
        "n_patients": len({case.patient for case in cases}),
        "n_cases_at_fault": sum(bool(case.faults) for case in cases),
        "sections": {name: len(part) for name, part in datalist.sections.items()},
        **told,
        "duplicates": duplicates,
        "organs": organs,
        "cases": described,
    }


def volume_range_ml(volumes_ml: Sequence[float]) -> tuple[float, float] | None:
    """Return the volumes beyond which one stands out: 3.5 robust deviations of the logarithm from the median.

    The deviation is 1.4826 times the median absolute one, at least 0.05. Fewer than 8 volumes (none of them 0) have no
    range: None.
    """
    if len(volumes_ml) < _MIN_VALUES:
        return None
    logs: NDArray[np.float64] = np.log(np.asarray(volumes_ml, dtype=np.float64))
    median = float(np.median(logs))
    reach = _OUTLIER * max(1.4826 * float(np.median(np.abs(logs - median))), _MIN_SPREAD)
    return float(np.exp(median - reach)), float(np.exp(median + reach))


def _inspect(entry: tuple[Case, str], card: Card) -> CaseInspection:
    return inspect_case(*entry, card)


def _empty_sections(cases: Sequence[CaseInspection], card: Card) -> list[str]:
    """Return the faults of sections whose labels lack what is needed, where all of them could be read."""
    faults = []
    for section, fault_of in SECTION_FAULTS.items():
        part = [case for case in cases if case.section == section]
        if not part or any(case.organs_ml is None for case in part):
            continue
        found = [{organ for organ, volume_ml in case.organs_ml.items() if volume_ml > 0} for case in part]
        fault = fault_of(card, lacking_organs(card, found))
        if fault is not None:
            faults.append(fault)
    return faults


def _organ(cases: Sequence[CaseInspection], organ: str) -> dict[str, int | float | list[float] | None]:
    """Return in how many cases the organ is annotated and present, and its usual volume."""
    annotated = [case.organs_ml[organ] for case in cases if case.organs_ml and organ in case.organs_ml]
    present = [volume_ml for volume_ml in annotated if volume_ml > 0]
    limits = volume_range_ml(present)
    return {
        "annotated": len(annotated),
        "present": len(present),
        "median_ml": float(np.median(present)) if present else None,
        "usual_ml": limits and list(limits),
    }


def _case_entry(case: CaseInspection, organs: Mapping[str, Mapping[str, Any]], notes: list[str]) -> dict[str, Any]:
    """Return a case's entry in the summary; a note is taken of every organ of an unusual volume."""
    outliers = []
    for organ, volume_ml in (case.organs_ml or {}).items():
        low, high = organs[organ]["usual_ml"] or (0.0, math.inf)
        if 0 < volume_ml < low or volume_ml > high:
            outliers.append(organ)
            usual = f"the others' usual {low:.3g} to {high:.3g} ml"
            notes.append(f"{case.case}: {organ} has {volume_ml:.3g} ml, outside {usual}; check its label")
    return {
        "case": case.case,
        "patient": case.patient,
        "section": case.section,
        "faults": len(case.faults),
        "shape": case.shape and list(case.shape),
        "spacing_mm": case.spacing_mm and list(case.spacing_mm),
        "orientation": case.orientation,
        "voxel_type": case.voxel_type,
        "intensity": case.intensity,
        "organs_ml": case.organs_ml,
        "outliers": outliers,
    }


def _spacing_notes(cases: Sequence[CaseInspection]) -> list[str]:
    """Return the note of cases whose voxels are five times as large or small as the others', along any axis.

    Spacings are compared from the smallest to the largest, whatever the order of the axes; of two cases neither is odd.
    """
    known = [case for case in cases if case.spacing_mm is not None]
    if len(known) < _MIN_SPACINGS:
        return []
    spacings = np.sort([case.spacing_mm for case in known], axis=1)
    usual = np.median(spacings, axis=0)
    times = np.exp(np.abs(np.log(spacings / usual)).max(axis=1))
    notes = []
    for number in np.flatnonzero(times > _USUAL_TIMES):
        own, others = (" x ".join(map("{:.3g}".format, sizes)) for sizes in (spacings[number], usual))
        notes.append(f"{known[number].case}: voxels of {own} mm, of the others usually {others}; is the unit right?")
    return notes


def _window_notes(cases: Sequence[CaseInspection], low: float, high: float) -> list[str]:
    """Return the note of cases that would be all black or all white in the card's window."""
    notes = []
    for case in cases:
        if case.intensity is None:
            continue
        darkest = case.intensity["p0.5"]
        brightest = case.intensity["p99.5"]
        if brightest <= low or darkest >= high:
            notes.append(
                f"{case.case}: intensities {darkest:.4g} to {brightest:.4g} are outside the card's window "
                f"{low:g} to {high:g}; are they Hounsfield units?"
            )
    return notes


def _duplicates(cases: Sequence[CaseInspection], told: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return all pairs of near-identical volumes; those of different patients are faults, one for each volume."""
    pairs = []
    leaking: set[int] = set()
    for i, j, similarity in find_duplicates([case.fingerprint for case in cases]):
        first, second = cases[i], cases[j]
        same_patient = first.patient == second.patient
        pairs.append({"cases": [first.case, second.case], "same_patient": same_patient, "similarity": similarity})
        how = "the same voxels as"
        if similarity < 1:
            how = f"nearly the same volume (similarity {similarity:.6f}) as"
        line = f"{second.case}: {how} {first.case}"
        if same_patient:  # they count twice, but leak nothing
            told["warnings"].append(f"{line} of the same patient; is one a copy?")
        elif j not in leaking:
            leaking.add(j)
            told["faults"].append(f"{line} of another patient; name one patient, or remove one")
    return pairs
