"""From pairs of label volumes to the content of metrics.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ragsam.data.cards import Card, Organ
from ragsam.errors import InputError
from ragsam.metrics.protocols import COUNTED, METRICS, RULES, score_organ, unmeasured
from ragsam.metrics.statistics import mean_interval
from ragsam.metrics.surface import diagonal_mm
from ragsam.report.labels import LabelVolume, geometry_fault, read_labels
from ragsam.report.pairs import CasePair, pairs_from_cases, pairs_from_folders

__all__ = ["CasePair", "evaluate_cases", "pairs_from_cases", "pairs_from_folders", "scores_by_patient"]

PROTOCOLS = ("clinical",)
ONE_PER_CASE = "one per case: no patient table was given"

Progress = Callable[[int, int, str], None]


def evaluate_cases(
    pairs: Sequence[CasePair], card: Card, *, protocol: str = "clinical", progress: Progress | None = None
) -> dict[str, Any]:
    """Score every case and return the content of metrics.json; the same files give the same digits.

    A fault of one case does not stop the others: it is a line under "faults". Without a usable prediction the
    reference's organs count as missed; without a usable reference the case cannot be scored, and is named under
    "unscored" only. Label values that are not on the card are a fault too, and are left out; the rest is scored.

    Args:
        pairs: the cases; names must differ.
        card: organs, label values and tolerances.
        protocol: "clinical"; see `ragsam.metrics.protocols`.
        progress: called with (done, total, case) after each case.

    Returns:
        protocol, card, cases and summary as described in `docs`; beside them n_cases, n_patients, patients, faults,
        unscored, missed, false_positive and absent (counts by organ), and protocol_rules. It holds no NaN.

    Raises:
        InputError: where there is no case, a name stands twice, or the protocol or an annotated organ is unknown.
    """
    _check(pairs, card, protocol)
    cases, faults, unscored = [], [], []
    for done, pair in enumerate(pairs, start=1):
        try:
            organs, found = _evaluate_case(pair, card)
        except InputError as error:
            faults.append(_without_folder(f"{error}", pair))
            unscored.append(pair.case)
        else:
            faults.extend(_without_folder(line, pair) for line in found)
            cases.append({"case": pair.case, "patient": _patient(pair), "organs": organs})
        if progress is not None:
            progress(done, len(pairs), pair.case)
    no_table = all(pair.patient is None for pair in pairs)
    return {
        "protocol": protocol,
        "card": card.name,
        "n_cases": len(cases),
        "n_patients": len({case["patient"] for case in cases}),
        "patients": ONE_PER_CASE if no_table else "as the datalist or table names them",
        "cases": cases,
        "summary": _summary(cases, card),
        **{status: _counts(cases, card, status) for status in ("missed", "false_positive", "absent")},
        "faults": faults,
        "unscored": unscored,
        "protocol_rules": [*RULES, _tolerances(card)],
    }


def scores_by_patient(cases: Sequence[Mapping[str, Any]], organ: str, metric: str) -> dict[str, list[float]]:
    """Return {patient: [score of each of their volumes that counts]} from metrics.json's cases."""
    scores: dict[str, list[float]] = {}
    for case in cases:
        entry = case["organs"].get(organ)
        if entry is not None and entry["status"] in COUNTED:
            scores.setdefault(case["patient"], []).append(entry[metric])
    return scores


def _check(pairs: Sequence[CasePair], card: Card, protocol: str) -> None:
    """Refuse what no case could mend."""
    if protocol not in PROTOCOLS:
        raise InputError(f"{protocol}: no such protocol; choose one of {', '.join(PROTOCOLS)}")
    if not pairs:
        raise InputError("no case to evaluate; name a folder or a datalist with labelled cases")
    names = [pair.case for pair in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{twice}: the case is there twice; give every case a name of its own")
    on_card = {organ.name for organ in card.organs}
    for pair in pairs:
        if unknown := sorted(set(pair.annotated or ()) - on_card):
            raise InputError(f"{pair.case}: annotated organ {unknown[0]} is not on card {card.name}; mend the datalist")


def _evaluate_case(pair: CasePair, card: Card) -> tuple[dict[str, Any], list[str]]:
    """Return the organs' scores and the faults of one case.

    Raises:
        InputError: where the reference cannot be used.
    """
    reference = read_labels(pair.reference, f"{pair.case} (reference)", label_map=pair.label_map)
    faults = _unknown_values(reference, card, f"{pair.case} (reference)")
    prediction = None
    if pair.prediction is None:
        faults.append(f"{pair.case}: no prediction; scored as missed, segment the case and evaluate again")
    else:
        try:
            prediction = read_labels(pair.prediction, f"{pair.case} (prediction)")
        except InputError as error:
            faults.append(f"{error}; scored as missed")
    if prediction is not None:
        if fault := geometry_fault(reference, prediction):
            faults.append(f"{pair.case}: {fault}; scored as missed, bring the prediction onto the image's own grid")
            prediction = None
        else:
            faults.extend(_unknown_values(prediction, card, f"{pair.case} (prediction)"))
    return _score_organs(reference, prediction, card, pair.annotated), faults


def _score_organs(
    reference: LabelVolume, prediction: LabelVolume | None, card: Card, annotated: Sequence[str] | None
) -> dict[str, Any]:
    """Return {organ: scores} of a case in the card's order."""
    penalty_mm = diagonal_mm(reference.labels.shape, reference.spacing_mm)
    predicted = np.zeros_like(reference.labels) if prediction is None else prediction.labels
    boxes = [_boxes(reference.labels, card), _boxes(predicted, card)]
    organs = {}
    for organ in card.organs:
        box = _union([found[organ.value] for found in boxes if organ.value in found])
        scores = score_organ(
            reference.labels[box] == organ.value,
            predicted[box] == organ.value,
            spacing_mm=reference.spacing_mm,
            tolerance_mm=organ.tolerance_mm,
            penalty_mm=penalty_mm,
        )
        volume_prediction = None if prediction is None else scores["volume_prediction_ml"]
        if annotated is not None and organ.name not in annotated:
            scores = unmeasured("not_annotated")
        organs[organ.name] = scores | {"volume_prediction_ml": volume_prediction}
    return organs


def _boxes(labels: NDArray[np.integer], card: Card) -> dict[int, tuple[slice, ...]]:
    """Return {value: tight box} of the card's values that occur."""
    found = find_objects(labels, max(organ.value for organ in card.organs))
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """Return the box around all boxes; an empty one for none."""
    if not boxes:
        return (slice(0, 0),) * 3
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _unknown_values(volume: LabelVolume, card: Card, name: str) -> list[str]:
    """Return the fault line of label values that are not on the card, if there are any."""
    outside = volume.labels[(volume.labels < 0) | (volume.labels > len(card.organs))]  # a card's values are 1..K
    unknown = np.unique(outside).tolist()
    if not unknown:
        return []
    values = ", ".join(map(str, unknown[:8])) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
    allowed = f"card {card.name} (0-{len(card.organs)})"
    return [f"{name}: label {values} is not on {allowed}; left out, relabel or change the card"]


def _summary(cases: Sequence[Mapping[str, Any]], card: Card) -> dict[str, Any]:
    """Return means with intervals by organ and over organs; organs in no reference are named and left out."""
    scored = [organ for organ in card.organs if _in_a_reference(cases, organ)]
    names = {organ.name for organ in scored}
    tables = {
        metric: {o.name: scores_by_patient(cases, o.name, metric) if o in scored else {} for o in card.organs}
        for metric in METRICS
    }
    counted = sum(any(case["organs"][name]["status"] in COUNTED for name in names) for case in cases)
    return {
        "organs": {
            organ.name: {metric: mean_interval({organ.name: tables[metric][organ.name]}) for metric in METRICS}
            for organ in card.organs
        },
        "mean": {metric: mean_interval(tables[metric]) | {"n_cases": counted} for metric in METRICS},
        "organs_left_out": [organ.name for organ in card.organs if organ.name not in names],
    }


def _in_a_reference(cases: Sequence[Mapping[str, Any]], organ: Organ) -> bool:
    return any(case["organs"][organ.name]["status"] in ("ok", "missed") for case in cases)


def _counts(cases: Sequence[Mapping[str, Any]], card: Card, status: str) -> dict[str, int]:
    """Return {organ: number of cases with that status}."""
    return {o.name: sum(case["organs"][o.name]["status"] == status for case in cases) for o in card.organs}


def _tolerances(card: Card) -> str:
    return "NSD tolerances in mm: " + ", ".join(f"{o.name} {o.tolerance_mm:g}" for o in card.organs) + "."


def _patient(pair: CasePair) -> str:
    return pair.case if pair.patient is None else pair.patient


def _without_folder(line: str, pair: CasePair) -> str:
    """Name files, not folders: a path can hold a person's name, and metrics.json is passed on."""
    for path in (pair.reference, pair.prediction):
        if path is not None:
            line = line.replace(str(path), path.name).replace(f"{path.parent}/", "")
    return line
