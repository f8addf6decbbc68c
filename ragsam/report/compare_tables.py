"""compare.md: each run against the first in tables, for papers and pull requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragsam.report.formatting import TITLES, interval, number, probability, readable
from ragsam.report.markup import escape_markdown, markdown_table

SHOWN_CASES = 10


def comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """Return the content of compare.md, of what `ragsam.evaluation.compare_runs.compare_runs` returns."""
    title = f"Runs compared: card {comparison['card']}, protocol {comparison['protocol']}"
    parts = [f"# {escape_markdown(title)}\n"]
    for entry in comparison["comparisons"]:
        parts.append(f"## {escape_markdown(entry['run'])} against {escape_markdown(comparison['baseline'])}\n")
        parts += [_organ_table(entry, metric) for metric in comparison["metrics"]]
        parts.append(_case_table(entry))
    parts.append("## Rules\n")
    parts += [f"- {escape_markdown(rule)}" for rule in comparison["rules"]]
    return "\n".join(parts) + "\n"


def summary_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Return a line on each run against the first."""
    lines = []
    for entry in comparison["comparisons"]:
        dice = entry["mean"]["dice"]
        difference = number(dice["mean_difference"], "dice", sign="+")
        bounds = interval(dice["ci95"], "dice", signed=True)
        found = f"{difference} ({bounds}), p {probability(dice['p_holm'])}"
        counts = f"{entry['won']} cases won, {entry['lost']} lost, {entry['tied']} equal"
        lines.append(f"{entry['run']} minus {comparison['baseline']}: mean Dice {found}; {counts}")
    return lines


def _organ_table(entry: Mapping[str, Any], metric: str) -> str:
    """Return the table of one metric, the organ that differs most first."""
    organs = sorted(entry["organs"].items(), key=lambda item: -abs(item[1][metric]["mean_difference"] or 0.0))
    rows = [_row(readable(organ), found[metric], metric) for organ, found in organs]
    total = _row("mean of organs", entry["mean"][metric], metric)
    difference = f"difference in {TITLES[metric]}"
    heads = ["organ", difference, "95 % interval", "p (Holm)", "patients better", "worse", "equal"]
    return markdown_table(heads, rows, title=f"{TITLES[metric]}, the organ that differs most first:", total=total)


def _row(name: str, paired: Mapping[str, Any], metric: str) -> list[str]:
    return [
        name,
        number(paired["mean_difference"], metric, sign="+"),
        interval(paired["ci95"], metric, signed=True),
        probability(paired["p_holm"]),
        str(paired["wins"]),
        str(paired["losses"]),
        str(paired["ties"]),
    ]


def _case_table(entry: Mapping[str, Any]) -> str:
    shown = entry["cases"][:SHOWN_CASES]
    title = (
        f"Cases: {entry['won']} won, {entry['lost']} lost, {entry['tied']} equal of {entry['n_cases']} by mean Dice. "
        f"The {len(shown)} that differ most:"
    )
    rows = []
    for case in shown:
        ours, theirs = case["dice"]
        organ, difference = most_different(case)
        most_in = f"{readable(organ)} {difference:+.3f}"
        rows.append([case["case"], f"{ours:.3f}", f"{theirs:.3f}", f"{case['difference']:+.3f}", most_in])
    return markdown_table(["case", "this run", "first run", "difference", "most in"], rows, title=title)


def most_different(case: Mapping[str, Any]) -> tuple[str, float]:
    """Return the organ of a case whose Dice differs most, and by how much."""
    return max(case["organs"].items(), key=lambda item: abs(item[1]))
