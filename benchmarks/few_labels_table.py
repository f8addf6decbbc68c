"""The tables and curves of `few_labels.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ragsam.files import write_json_atomic, write_text_atomic
from ragsam.metrics.significance import holm
from ragsam.metrics.statistics import Table, mean_interval, paired_difference

BASE = "retrieval off"
_HEAD = "| labelled | tested | seeds | steps | minutes | Dice (95 % interval) | gain (95 % interval) | p | better |"


def scores_of(trials: Sequence[dict[str, Any]]) -> Table:
    """Return Dice by organ and patient, of all volumes and seeds."""
    table: dict[str, dict[str, list[float]]] = {}
    for trial in trials:
        for case in trial["cases"]:
            for organ, values in case["organs"].items():
                if values["dice"] is not None:
                    table.setdefault(organ, {}).setdefault(case["patient"], []).append(values["dice"])
    return table


def rows_of(done: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return a row for each number of patients and test of a set; seeds without either side of a pair are left out."""
    mine = [trial for trial in done if trial["set"] == name]
    tests = [trial for trial in mine if "test" in trial]
    rows = []
    for patients, teacher, test in dict.fromkeys((t["patients"], t["teacher"], t["test"]) for t in tests):
        tested = _by_seed(tests, patients=patients, teacher=teacher, test=test)
        base = _by_seed(tests, patients=patients, teacher="", test=BASE)
        seeds = sorted(tested.keys() & base.keys())
        trainings = _by_seed([t for t in mine if "steps" in t], patients=patients, teacher=teacher)
        trained = [trainings[seed] for seed in seeds]
        if not seeds:
            continue
        table = scores_of([tested[seed] for seed in seeds])
        tag = f"{test}; self-trained by {teacher}" if teacher else test
        row = {"patients": patients, "test": tag, "seeds": seeds, "dice": mean_interval(table)}
        for key in ("steps", "minutes"):
            row[key] = sum(trial[key] for trial in trained) / len(trained)
        if tag != BASE:
            row["gain"] = paired_difference(table, scores_of([base[seed] for seed in seeds]))
        rows.append(row)
    for place, p_value in holm({i: row["gain"]["p"] for i, row in enumerate(rows) if "gain" in row}).items():
        rows[place]["p"] = p_value
    return rows


def _by_seed(trials: Sequence[dict[str, Any]], **asked: Any) -> dict[int, dict[str, Any]]:
    """Return the trials that have all values asked for, by their seeds."""
    return {trial["seed"]: trial for trial in trials if all(trial[key] == value for key, value in asked.items())}


def line_of(row: dict[str, Any]) -> str:
    """Return a row of the Markdown table."""
    gain, told = row.get("gain"), " | | "
    if gain:
        p_value = "" if row["p"] is None else f"{row['p']:.2g}"  # None: nothing differs
        told = f"{_interval(gain['mean_difference'], gain['ci95'], '+.3f')} | {p_value} | {gain['wins']} of {gain['n']}"
    dice = _interval(row["dice"]["mean"], row["dice"]["ci95"], ".3f")
    effort = f"{row['steps']:.0f} | {row['minutes']:.1f}"
    return f"| {row['patients'] or 'all'} | {row['test']} | {len(row['seeds'])} | {effort} | {dice} | {told} |"


def _interval(mean: float, bounds: Sequence[float] | None, form: str) -> str:
    if bounds is None:
        return f"{mean:{form}}"
    return f"{mean:{form}} ({bounds[0]:.3f} to {bounds[1]:.3f})"


def write_tables(done: Sequence[dict[str, Any]], output: Path) -> None:
    """Write `tables.md`, `rows.json` and, of the trainings' validations, `validation.json`."""
    lines = []
    by_set = {}
    for name in dict.fromkeys(trial["set"] for trial in done):
        by_set[name] = rows_of(done, name)
        lines += [f"{name}", "", _HEAD, "|" + "---|" * (_HEAD.count("|") - 1), *map(line_of, by_set[name]), ""]
    write_text_atomic(output / "tables.md", "\n".join(lines))
    write_json_atomic(output / "rows.json", by_set)
    curves = {trial["folder"]: trial["validation"] for trial in done if "validation" in trial}
    write_json_atomic(output / "validation.json", curves)
