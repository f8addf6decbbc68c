"""From pairs of label volumes to the content of metrics.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.data.checks.parallel import cores, run_each
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import CasePair, pairs_from_cases, pairs_from_folders
from ragsam.evaluation.score_case import crashed, evaluated
from ragsam.metrics.protocols import ALL_METRICS, PROTOCOLS, Protocol
from ragsam.metrics.statistics import Table, mean_interval

__all__ = ["CasePair", "evaluate_cases", "pairs_from_cases", "pairs_from_folders", "score_table"]

Cases = Sequence[Mapping[str, Any]]

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
        protocol: one of `ragsam.metrics.protocols.PROTOCOLS`.
        jobs: processes, each of which holds the two label volumes of a case; None takes one a core.
        progress: called with the number of cases that are done.
        results: of `evaluated` for every pair, where they have been scored already, by other processes say.

    Returns:
        protocol, card, cases and summary as described in `docs`; beside them metrics (what the protocol scores),
        n_cases, n_patients, patients, faults, unscored, missed, false_positive and absent (counts by organ),
        protocol_caveat and protocol_rules. It holds no NaN.

    Raises:
        InputError: if there is no case, a name occurs twice, the protocol or an annotated organ is unknown, the
            protocol is not for the card's organs, or there is no process.
    """
    rules = require_evaluable(pairs, card, protocol)
    if jobs is None:
        jobs = cores()
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: not a number of processes; give 1 or more")
    if results is None:
        job = partial(evaluated, card=card, protocol=protocol)
        results = run_each(job, pairs, jobs=min(jobs, len(pairs)), crashed=crashed, done=progress)
    cases, faults, unscored = [], [], []
    for pair, (organs, found) in zip(pairs, results, strict=True):
        faults += [_without_folder(line, pair) for line in found]
        if organs is None:
            unscored.append(pair.case)
            continue
        patient = pair.case if pair.patient is None else pair.patient
        cases.append({"case": pair.case, "patient": patient, "organs": organs})
    patients = "as the datalist or table names them"
    if all(pair.patient is None for pair in pairs):
        patients = ONE_PER_CASE
    return {
        "protocol": protocol,
        "card": card.name,
        "metrics": list(rules.metrics),
        "n_cases": len(cases),
        "n_patients": len({case["patient"] for case in cases}),
        "patients": patients,
        "cases": cases,
        "summary": _summary(cases, card, rules),
        **_counts(cases, card),
        "faults": faults,
        "unscored": unscored,
        "protocol_caveat": rules.caveat,
        "protocol_rules": [*rules.rules, *_tolerances(card, rules)],
    }


def score_table(cases: Cases, organs: Iterable[str], metric: str) -> Table:
    """Return {organ: {patient: [each score of their volumes]}} of metrics.json's cases, without what has no score."""
    table: dict[str, dict[str, list[float]]] = {}
    for organ in organs:
        table[organ] = {}
        for case in cases:
            score = case["organs"].get(organ, {}).get(metric)
            if score is not None:
                table[organ].setdefault(case["patient"], []).append(score)
    return table


def require_evaluable(pairs: Sequence[CasePair], card: Card, protocol: str) -> Protocol:
    """Return the protocol; refuse what no case could correct.

    Raises:
        InputError: as `evaluate_cases`.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"{protocol}: no such protocol; choose one of {', '.join(PROTOCOLS)}")
    rules = PROTOCOLS[protocol]
    misfit = rules.misfit(list(card.labels))
    if misfit is not None:
        raise InputError(f"protocol {protocol} is not for card {card.name}: {misfit}; choose another protocol")
    if not pairs:
        raise InputError("no case to evaluate; name a folder or a datalist with labelled cases")
    seen = set()
    for pair in pairs:
        if pair.case in seen:
            raise InputError(f"{pair.case}: the case is there twice; give every case a name of its own")
        seen.add(pair.case)
        unknown = sorted(set(pair.annotated or ()) - card.labels.keys())
        if unknown:
            raise InputError(
                f"{pair.case}: annotated organ {unknown[0]} is not on card {card.name}; correct the datalist"
            )
    return rules


def _summary(cases: Cases, card: Card, protocol: Protocol) -> dict[str, Any]:
    """Return means with intervals by organ and over organs; organs that do not count are named and left out."""
    names = np.array(list(card.labels))
    counts = np.isin(_table(cases, card, "status", str), ("ok", "missed")).any(axis=0)
    if protocol.counts_unreferenced:
        counts[:] = True
    dice = _table(cases, card, "dice", float)[:, counts]
    n_cases = np.isfinite(dice).any(axis=1).sum()
    organs: dict[str, dict[str, Any]] = {organ: {} for organ in card.labels}
    mean = {}
    for metric in dict.fromkeys((*ALL_METRICS, *protocol.metrics)):
        table = score_table(cases, names[counts].tolist(), metric)
        mean[metric] = mean_interval(table) | {"n_cases": int(n_cases)}
        for organ, summaries in organs.items():
            summaries[metric] = mean_interval({organ: table.get(organ, {})})
    return {"organs": organs, "mean": mean, "organs_left_out": names[~counts].tolist()}


def _counts(cases: Cases, card: Card) -> dict[str, dict[str, int]]:
    """Return {status: {organ: number of cases}} of what is not ok."""
    statuses = _table(cases, card, "status", str)
    counts = {}
    for status in ("missed", "false_positive", "absent"):
        found = (statuses == status).sum(axis=0)
        counts[status] = dict(zip(card.labels, found.tolist(), strict=True))
    return counts


def _table(cases: Cases, card: Card, key: str, kind: type) -> NDArray:
    """Return what metrics.json's cases have under a key, [cases, organs]."""
    rows = [[case["organs"][organ][key] for organ in card.labels] for case in cases]
    return np.array(rows, dtype=kind).reshape(-1, card.num_classes)


def _tolerances(card: Card, protocol: Protocol) -> list[str]:
    if "nsd" not in protocol.metrics:
        return []
    words = []
    for organ in card.organs:
        tolerance_mm = protocol.tolerances_mm.get(organ.name, organ.tolerance_mm)
        words.append(f"{organ.name} {tolerance_mm:g}")
    return [f"NSD tolerances in mm: {', '.join(words)}."]


def _without_folder(line: str, pair: CasePair) -> str:
    """Name files, not folders: a path can hold a person's name, and metrics.json is passed on."""
    for path in filter(None, (pair.reference, pair.prediction)):
        line = line.replace(str(path), path.name).replace(f"{path.parent}/", "")
    return line
