"""From pairs of label volumes to the content of metrics.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ragsam.data.cards.load import Card, Organ
from ragsam.data.checks.parallel import cores, run_each
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair, pairs_from_cases, pairs_from_folders
from ragsam.evaluation.score_case import crashed, evaluated
from ragsam.metrics.protocols import ALL_METRICS, PROTOCOLS, Protocol
from ragsam.metrics.statistics import mean_interval

__all__ = ["CasePair", "evaluate_cases", "pairs_from_cases", "pairs_from_folders", "scores_by_patient"]

ONE_PER_CASE = "one per case: no patient table was given"


def evaluate_cases(
    pairs: Sequence[CasePair],
    card: Card,
    *,
    protocol: str = "clinical",
    jobs: int | None = 1,
    progress: Callable[[int], None] = lambda done: None,
    results: Sequence[tuple[dict[str, Any] | None, list[str]]] | None = None,
) -> dict[str, Any]:
    """Score every case and return the content of metrics.json; the same files give the same digits.

    A fault of one case does not stop the others: it is a line under "faults". Without a usable prediction the
    reference's organs count as missed; without a usable reference the case cannot be scored, and is named under
    "unscored" only. Label values that are not on the card are a fault too, and are left out; the rest is scored.

    Args:
        pairs: the cases; names must differ.
        card: organs, label values and tolerances.
        protocol: one of `ragsam.metrics.protocols.PROTOCOLS`.
        jobs: processes, each of which holds the two label volumes of a case; None takes one a core.
        progress: called with the number of cases that are done.
        results: of `evaluated` for every pair, where they have been scored already, by other processes say.

    Returns:
        protocol, card, cases and summary as described in `docs`; beside them metrics (what the protocol scores),
        n_cases, n_patients, patients, faults, unscored, missed, false_positive and absent (counts by organ),
        protocol_caveat and protocol_rules. It holds no NaN.

    Raises:
        InputError: where there is no case, a name stands twice, the protocol or an annotated organ is unknown, the
            protocol is not for the card's organs, or there is no process.
    """
    rules = _check(pairs, card, protocol)
    jobs = cores() if jobs is None else jobs
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: no such number of processes; take 1 or more")
    cases, faults, unscored = [], [], []
    job = partial(evaluated, card=card, protocol=protocol)
    if results is None:
        results = run_each(job, pairs, jobs=min(jobs, len(pairs)), crashed=crashed, done=progress)
    for pair, (organs, found) in zip(pairs, results, strict=True):
        faults.extend(_without_folder(line, pair) for line in found)
        if organs is None:
            unscored.append(pair.case)
        else:
            cases.append({"case": pair.case, "patient": _patient(pair), "organs": organs})
    no_table = all(pair.patient is None for pair in pairs)
    return {
        "protocol": protocol,
        "card": card.name,
        "metrics": list(rules.metrics),
        "n_cases": len(cases),
        "n_patients": len({case["patient"] for case in cases}),
        "patients": ONE_PER_CASE if no_table else "as the datalist or table names them",
        "cases": cases,
        "summary": _summary(cases, card, rules),
        **{status: _counts(cases, card, status) for status in ("missed", "false_positive", "absent")},
        "faults": faults,
        "unscored": unscored,
        "protocol_caveat": rules.caveat,
        "protocol_rules": [*rules.rules, *_tolerances(card, rules)],
    }


def scores_by_patient(cases: Sequence[Mapping[str, Any]], organ: str, metric: str) -> dict[str, list[float]]:
    """Return {patient: [each score of their volumes]} from metrics.json's cases; what has no score does not count."""
    scores: dict[str, list[float]] = {}
    for case in cases:
        score = case["organs"].get(organ, {}).get(metric)
        if score is not None:
            scores.setdefault(case["patient"], []).append(score)
    return scores


def _check(pairs: Sequence[CasePair], card: Card, protocol: str) -> Protocol:
    """Return the protocol; refuse what no case could mend."""
    if protocol not in PROTOCOLS:
        raise InputError(f"{protocol}: no such protocol; choose one of {', '.join(PROTOCOLS)}")
    rules = PROTOCOLS[protocol]
    if misfit := rules.misfit([organ.name for organ in card.organs]):
        raise InputError(f"protocol {protocol} is not for card {card.name}: {misfit}; choose another protocol")
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
    return rules


def _summary(cases: Sequence[Mapping[str, Any]], card: Card, protocol: Protocol) -> dict[str, Any]:
    """Return means with intervals by organ and over organs; organs that do not count are named and left out."""
    scored = [o.name for o in card.organs if protocol.counts_unreferenced or _in_a_reference(cases, o)]
    metrics = dict.fromkeys((*ALL_METRICS, *protocol.metrics))
    tables = {
        metric: {o.name: scores_by_patient(cases, o.name, metric) if o.name in scored else {} for o in card.organs}
        for metric in metrics
    }
    counted = sum(any(case["organs"][name]["dice"] is not None for name in scored) for case in cases)
    return {
        "organs": {
            organ.name: {metric: mean_interval({organ.name: tables[metric][organ.name]}) for metric in metrics}
            for organ in card.organs
        },
        "mean": {metric: mean_interval(tables[metric]) | {"n_cases": counted} for metric in metrics},
        "organs_left_out": [organ.name for organ in card.organs if organ.name not in scored],
    }


def _in_a_reference(cases: Sequence[Mapping[str, Any]], organ: Organ) -> bool:
    return any(case["organs"][organ.name]["status"] in ("ok", "missed") for case in cases)


def _counts(cases: Sequence[Mapping[str, Any]], card: Card, status: str) -> dict[str, int]:
    """Return {organ: number of cases with that status}."""
    return {o.name: sum(case["organs"][o.name]["status"] == status for case in cases) for o in card.organs}


def _tolerances(card: Card, protocol: Protocol) -> list[str]:
    if "nsd" not in protocol.metrics:
        return []
    known = protocol.tolerances_mm or {organ.name: organ.tolerance_mm for organ in card.organs}
    return ["NSD tolerances in mm: " + ", ".join(f"{o.name} {known[o.name]:g}" for o in card.organs) + "."]


def _patient(pair: CasePair) -> str:
    return pair.case if pair.patient is None else pair.patient


def _without_folder(line: str, pair: CasePair) -> str:
    """Name files, not folders: a path can hold a person's name, and metrics.json is passed on."""
    for path in (pair.reference, pair.prediction):
        if path is not None:
            line = line.replace(str(path), path.name).replace(f"{path.parent}/", "")
    return line
