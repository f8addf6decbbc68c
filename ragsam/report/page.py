"""report.html: one file that holds the whole evaluation and needs no network, and without the 3D view no script."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case
from ragsam.evaluation.case_pairs import CasePair
from ragsam.evaluation.paired_comparison import compare_metrics, compared_metrics
from ragsam.evaluation.volume_agreement import volume_agreement
from ragsam.files import write_text_atomic
from ragsam.metrics.scoring import DISTANCES
from ragsam.report import formatting as text
from ragsam.report.cases import LoadNeighbour, case_section, neighbour_loader, only_status, worst_first
from ragsam.report.figures import DIFFERENCE_COLOURS
from ragsam.report.html import asset, render
from ragsam.report.plots import agreement_plot, gain_plot, spread_plot, volume_plot
from ragsam.report.tables import summary_rows
from ragsam.report.viewer import viewer_content
from ragsam.report.views import ORIENTATION_NOTE

HEADLINES = {
    "dice": ("Dice", "overlap; 1 is perfect"),
    "nsd": ("NSD", "surface within tolerance; 1 is perfect"),
    "hd95_mm": ("HD95", "95 % of the surface is closer; 0 is perfect"),
    "hd95_voxels": ("HD95", "in voxels, not in mm; 0 is perfect"),
}
STATUS_TITLES = {
    "missed": "Missed",
    "false_positive": "False positive",
    "absent": "Absent in both",
    "not_annotated": "Not annotated",
}


def write_report(
    metrics: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    card: Card,
    pairs: Sequence[CasePair],
    trace: Mapping[str, Any] | None = None,
    baseline: Mapping[str, Any] | None = None,
    baseline_name: str = "without retrieval",
    support_cases: Mapping[str, Case] | None = None,
    provenance: Mapping[str, str] | None = None,
    max_cases: int = 6,
    name: str = "with retrieval",
    viewer: int | Sequence[str] = 0,
) -> None:
    """Write the report, whole or not at all; the same input gives the same bytes.

    Every text is escaped, and folders are cut from paths. Nothing from a volume's header is shown; case and patient are
    the study's own keys as metrics.json has them, neighbours are the trace's pseudonyms.

    Args:
        metrics: content of metrics.json, from `evaluate_cases`, made with the card.
        pairs: the cases' files, for the pictures.
        trace: content of retrieval.json; None leaves the neighbours out.
        baseline: metrics of another run on the same cases, for the paired comparison.
        name, baseline_name: what this run and that one are, as in "against ...".
        support_cases: {pseudonym: case} for the neighbours' pictures; None shows them as text.
        provenance: what made this, shown at the end as it is given.
        max_cases: how many of the worst cases are shown with pictures.
        viewer: cases with an interactive 3D view: so many of the worst, or these; it needs the extra `viewer`.

    Raises:
        InputError: where the baseline is not comparable (see `compare_metrics`), the package of the 3D view is missing,
            or the file cannot be written.
    """
    ranked = worst_first(metrics)
    by_name = {pair.case: pair for pair in pairs}
    trace = trace or {}
    novelties = {case: entry.get("novelty") or {} for case, entry in trace.get("cases", {}).items()}
    shown = [metric for metric in HEADLINES if metric in metrics["metrics"]]
    comparison = None
    other: Mapping[str, Any] = dict.fromkeys(shown)
    if baseline is not None:
        comparison = _comparison(shown, card, (metrics, baseline), (name, baseline_name))
        other = baseline["summary"]["mean"]
    headlines = []
    for metric in shown:
        title, meaning = HEADLINES[metric]
        values = {"value": metrics["summary"]["mean"][metric], "baseline": other[metric]}
        headlines.append({"metric": metric, "title": title, "meaning": meaning, **values})
    content: dict[str, Any] = {
        "metrics": metrics,
        "card": card,
        "headlines": headlines,
        "name": name,
        "baseline_name": baseline_name,
        "comparison": comparison,
        "rows": summary_rows(metrics),
        "spreads": [(text.TITLES[metric], spread_plot(metrics, card, metric)) for metric in shown],
        "distances": set(DISTANCES).intersection(metrics["metrics"]),
        "volumes": volume_plot(metrics, card),
        "agreements": _agreements(metrics, card),
        "events": _events(metrics),
        "cases": _cases(ranked, card, by_name, trace, neighbour_loader(support_cases or {}), max_cases),
        "all_cases": [{**case, "dice": dice} for case, dice in ranked],
        "trace": trace,
        "unlike_bank": [case for case, novelty in novelties.items() if novelty.get("flagged")],
        "provenance": {str(key): text.without_folders(str(value)) for key, value in (provenance or {}).items()},
        "viewer": viewer_content(viewer, [case["case"] for case, _ in ranked], by_name, card),
        "viewer_script": asset("viewer.js"),
        "difference_colours": DIFFERENCE_COLOURS,
        "orientation_note": ORIENTATION_NOTE,
        "metric_titles": text.TITLES,
        "metric_names": [metric for metric in compared_metrics(metrics) if metric in metrics["metrics"]],
        "status_titles": STATUS_TITLES,
    }
    scripts = []
    if content["viewer"]:
        scripts = [content["viewer_script"], content["viewer"]["code"].module]
    write_text_atomic(path, render("page.html", content, scripts=scripts))


def _comparison(
    metrics: list[str], card: Card, runs: tuple[Mapping[str, Any], Mapping[str, Any]], names: tuple[str, str]
) -> dict[str, Any]:
    """Return the sentences, the plot and the rows of two runs compared, the row over all organs first."""
    comparison = compare_metrics(*runs)
    findings = []
    for metric in metrics:
        paired = comparison["mean"][metric]
        findings.append((text.verdict(paired, metric), *text.finding(paired, metric, *names)))
    first, second = [{"mean of organs": run["summary"]["mean"], **run["summary"]["organs"]} for run in runs]
    rows = []
    for organ, paired in {"mean of organs": comparison["mean"], **comparison["organs"]}.items():
        dice = [first[organ]["dice"]["mean"], second[organ]["dice"]["mean"]]
        verdicts = {metric: text.verdict(paired[metric], metric) for metric in metrics}
        rows.append({"organ": organ, "paired": paired, "dice": dice, "verdict": verdicts})
    return {
        "findings": findings,
        "metrics": metrics,
        "rows": rows,
        "gain": gain_plot(comparison, card),
        "n_cases": comparison["n_cases"],
        "cases_in_one_run": comparison["cases_in_one_run"],
        "unpaired": comparison["mean"]["dice"]["unpaired"],
    }


def _agreements(metrics: Mapping[str, Any], card: Card) -> list[dict[str, Any]]:
    """Return each organ's agreement of volumes with its plot; organs without any volume are left out."""
    agreements = []
    for organ in card.organs:
        found = volume_agreement(metrics["cases"], organ.name)
        if found["points"]:
            plot = agreement_plot(found, organ.colour)
            agreements.append({**found, "organ": organ.name, "colour": organ.colour, "png": plot})
    return agreements


def _events(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for each status that is not ok, the cases by organ; a case with all its organs is named once."""
    counts: Counter[str] = Counter()
    where: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case in metrics["cases"]:
        shared = only_status(case)
        if shared is not None:
            where[shared]["every organ"].append(case["case"])
        for organ, scores in case["organs"].items():
            counts[scores["status"]] += 1
            if scores["status"] != shared:
                where[scores["status"]][organ].append(case["case"])
    possible = dict.fromkeys(STATUS_TITLES, counts.total())
    possible["missed"] = counts["ok"] + counts["missed"]
    possible["false_positive"] = counts["false_positive"] + counts["absent"]
    events = []
    for status, title in STATUS_TITLES.items():
        events.append({"title": title, "where": where[status], "count": counts[status], "of": possible[status]})
    return events


def _cases(
    ranked: Sequence[tuple[Mapping[str, Any], float | None]],
    card: Card,
    pairs: Mapping[str, CasePair],
    trace: Mapping[str, Any],
    load_neighbour: LoadNeighbour,
    max_cases: int,
) -> list[dict[str, Any]]:
    """Return the worst cases with their pictures; one volume's data is held at a time."""
    with_files = [(case, dice) for case, dice in ranked if case["case"] in pairs]
    shown = []
    for case, dice in with_files[:max_cases]:
        section = case_section(case, pairs[case["case"]], card, trace=trace, load_neighbour=load_neighbour)
        shown.append({**case, "dice": dice, "only_status": only_status(case), **section})
    return shown
