"""report.html: one file that holds the whole evaluation and needs no network, and without the 3D view no script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case
from ragsam.evaluation.case_pairs import CasePair
from ragsam.evaluation.paired_comparison import compare_metrics
from ragsam.evaluation.volume_agreement import volume_agreement
from ragsam.files import write_text_atomic
from ragsam.metrics.scoring import ALL_METRICS, DISTANCES, METRICS
from ragsam.report import formatting as text
from ragsam.report.cases import case_section, neighbour_loader, only_status, worst_first
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
        metrics: content of metrics.json, from `evaluate_cases`.
        path: the HTML file.
        card: the card the metrics were made with.
        pairs: the cases' files, for the pictures.
        trace: content of retrieval.json; None leaves the neighbours out.
        baseline: metrics of another run on the same cases, for the paired comparison.
        baseline_name: what that run is, as in "against ...".
        support_cases: {pseudonym: case} for the neighbours' pictures; None shows them as text.
        provenance: what made this, shown at the end as it is given.
        max_cases: how many of the worst cases are shown with pictures.
        name: what this run is, where there is a baseline.
        viewer: cases with an interactive 3D view: so many of the worst, or these; it needs the extra `viewer`.

    Raises:
        InputError: where the baseline is not comparable (see `compare_metrics`), the package of the 3D view is missing,
            or the file cannot be written.
    """
    comparison = None if baseline is None else compare_metrics(metrics, baseline)
    ranked = [case["case"] for case, _ in worst_first(metrics)]
    content: dict[str, Any] = {
        "metrics": metrics,
        "card": card,
        "headlines": _headlines(metrics, baseline),
        "name": name,
        "baseline_name": baseline_name,
        "comparison": comparison and _comparison(comparison, metrics, baseline or {}, name, baseline_name),
        "rows": summary_rows(metrics),
        "spreads": [(text.TITLES[m], spread_plot(metrics, card, m)) for m in HEADLINES if m in metrics["metrics"]],
        "distances": [metric for metric in metrics["metrics"] if metric in DISTANCES],
        "volumes": volume_plot(metrics, card),
        "gain": comparison and gain_plot(comparison, card),
        "agreements": _agreements(metrics, card),
        "events": _events(metrics),
        "cases": _cases(metrics, card, pairs, trace, support_cases, max_cases),
        "all_cases": [{**case, "dice": mean} for case, mean in worst_first(metrics)],
        "trace": trace,
        "unlike_bank": _unlike_bank(trace),
        "provenance": {str(k): text.without_folders(str(v)) for k, v in (provenance or {}).items()},
        "viewer": viewer_content(viewer, ranked, {pair.case: pair for pair in pairs}, card),
        "viewer_script": asset("viewer.js"),
        "difference_colours": DIFFERENCE_COLOURS,
        "orientation_note": ORIENTATION_NOTE,
    }
    titles = {"metric_titles": text.TITLES, "metric_names": shown_metrics(metrics), "status_titles": STATUS_TITLES}
    scripts = [content["viewer_script"], content["viewer"]["code"].module] if content["viewer"] else []
    write_text_atomic(path, render("page.html", content | titles, scripts=scripts))


def shown_metrics(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the tables show: the report's metrics that the protocol scores, and those that only it has."""
    scored = metrics["metrics"]
    return [m for m in METRICS if m in scored] + [m for m in scored if m not in ALL_METRICS]


def _headlines(metrics: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    means = metrics["summary"]["mean"]
    other = None if baseline is None else baseline["summary"]["mean"]
    return [
        {"metric": m, "title": title, "meaning": meaning, "value": means[m], "baseline": other and other[m]}
        for m, (title, meaning) in HEADLINES.items()
        if m in metrics["metrics"]
    ]


def _comparison(
    comparison: Mapping[str, Any],
    metrics: Mapping[str, Any],
    baseline: Mapping[str, Any],
    name: str,
    baseline_name: str,
) -> dict[str, Any]:
    """Return the comparison's sentences and its rows, the overall one first."""
    runs, names = (metrics["summary"], baseline["summary"]), [m for m in HEADLINES if m in metrics["metrics"]]
    rows = [("mean of organs", comparison["mean"], [run["mean"]["dice"]["mean"] for run in runs])]
    rows += [
        (organ, paired, [run["organs"][organ]["dice"]["mean"] for run in runs])
        for organ, paired in comparison["organs"].items()
    ]
    return {
        "findings": [
            (text.verdict(comparison["mean"][m], m), *text.finding(comparison["mean"][m], m, name, baseline_name))
            for m in names
        ],
        "metrics": names,
        "rows": [
            {"organ": o, "paired": p, "dice": dice, "verdict": {m: text.verdict(p[m], m) for m in names}}
            for o, p, dice in rows
        ],
        "n_cases": comparison["n_cases"],
        "cases_in_one_run": comparison["cases_in_one_run"],
        "unpaired": comparison["mean"]["dice"]["unpaired"],
    }


def _agreements(metrics: Mapping[str, Any], card: Card) -> list[dict[str, Any]]:
    """Return each organ's agreement of volumes with its plot; organs without any volume are left out."""
    agreements = [(organ, volume_agreement(metrics["cases"], organ.name)) for organ in card.organs]
    return [
        {**found, "organ": organ.name, "colour": organ.colour, "png": agreement_plot(found, organ.colour)}
        for organ, found in agreements
        if found["points"]
    ]


def _unlike_bank(trace: Mapping[str, Any] | None) -> list[str]:
    """Return the cases that retrieval.json flags as novel."""
    cases = (trace or {}).get("cases") or {}
    return [case for case, entry in cases.items() if (entry.get("novelty") or {}).get("flagged")]


def _events(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, for each status that is not ok, the cases by organ; a case with all its organs is named once."""
    statuses = [entry["status"] for case in metrics["cases"] for entry in case["organs"].values()]
    there = sum(status in ("ok", "missed") for status in statuses)
    of = dict.fromkeys(STATUS_TITLES, len(statuses)) | {"missed": there}
    of["false_positive"] = statuses.count("false_positive") + statuses.count("absent")
    events = []
    for status, title in STATUS_TITLES.items():
        where: dict[str, list[str]] = {}
        count = 0
        for case in metrics["cases"]:
            organs = [organ for organ, scores in case["organs"].items() if scores["status"] == status]
            count += len(organs)
            for organ in ["every organ"] if only_status(case) == status else organs:
                where.setdefault(organ, []).append(case["case"])
        events.append({"title": title, "where": where, "count": count, "of": of[status]})
    return events


def _cases(
    metrics: Mapping[str, Any],
    card: Card,
    pairs: Sequence[CasePair],
    trace: Mapping[str, Any] | None,
    support_cases: Mapping[str, Case] | None,
    max_cases: int,
) -> list[dict[str, Any]]:
    """Return the worst cases with their pictures; one volume's data is held at a time."""
    by_name = {pair.case: pair for pair in pairs}
    shown = [(case, dice) for case, dice in worst_first(metrics) if case["case"] in by_name][:max_cases]
    load = neighbour_loader(support_cases)
    return [
        {**case, "dice": dice, "only_status": only_status(case)}
        | case_section(case, by_name[case["case"]], card, trace=trace, load_neighbour=load)
        for case, dice in shown
    ]
