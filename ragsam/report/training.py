"""What a training came to: its log as a table and as curves."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.files import atomic_write
from ragsam.report.plots import GRID, INK, bare_figures, figure_png, plot_name

#: Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#f0e442")
CURVES_NAME = "curves.png"
_STYLES = ("-", "--", ":")

Row = Mapping[str, float | None]


def read_log(path: str | os.PathLike[str]) -> list[dict[str, float | None]]:
    """Read a run's log: a row a validation, None where a field is empty.

    Raises:
        InputError: no log, or no row in it.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = [{n: float(v) if v else None for n, v in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no log that can be read ({error}); train the run") from error
    if not rows:
        raise InputError(f"{path}: no validation in it; train the run")
    return rows


def best_row(rows: Sequence[Row]) -> Row:
    """Return the row of the best score; of equals the last."""
    return max(rows, key=lambda row: (row["score"] or 0.0, row["epoch"]))


def training_table(rows: Sequence[Row]) -> list[str]:
    """Return the best and the last validation as lines of a table."""
    best, last = best_row(rows), rows[-1]
    entries = [("epoch", "epoch", "{:.0f}"), ("loss", "loss", "{:.4f}"), ("mean Dice", "score", "{:.4f}")]
    entries += [(f"  {name.removeprefix('dice_')}", name, "{:.4f}") for name in last if name.startswith("dice_")]
    width = max(len(title) for title, _, _ in entries) + 2
    lines = [f"{'':{width}}{'best':>10}{'last':>10}"]
    for title, name, form in entries:
        values = ["-" if row.get(name) is None else form.format(row[name]) for row in (best, last)]
        lines.append(f"{title:{width}}{values[0]:>10}{values[1]:>10}")
    return lines


def write_curves(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write a PNG of loss, Dice and learning rate by epoch; a dashed line marks the best epoch."""
    losses = {name: name.removeprefix("loss_") for name in rows[-1] if name.startswith("loss_")}
    organs = {name: name.removeprefix("dice_") for name in rows[-1] if name.startswith("dice_")}
    figure, axes = bare_figures(3, 3.3, width_inches=11.0)
    _draw(axes[0], rows, {"loss": "all", **losses}, "loss in training")
    _draw(axes[1], rows, {"score": "mean", **organs}, "Dice in validation")
    _draw(axes[2], rows, {"learning_rate": ""}, "learning rate")
    axes[1].axvline(best_row(rows)["epoch"], color="#8796a3", linewidth=1.2, linestyle="--", zorder=1)
    with atomic_write(path) as temporary:
        temporary.write_bytes(figure_png(figure))


def _draw(axes: Any, rows: Sequence[Row], curves: Mapping[str, str], title: str) -> None:
    """Draw columns of the log by epoch, the first one thick and dark."""
    for place, (name, label) in enumerate(curves.items()):
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        colour = COLOURS[(place - 1) % len(COLOURS)] if place else INK
        style = _STYLES[(place - 1) // len(COLOURS) % len(_STYLES)] if place else "-"
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=style, label=plot_name(label), zorder=3,
                  linewidth=1.3 if place else 2.2, marker="o", markersize=3 if place else 4)  # fmt: skip
    axes.set_xlabel("epoch")
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.grid(color=GRID, linewidth=0.8, axis="both")
    if len(curves) > 1:
        axes.legend(fontsize=7.5, frameon=False, ncols=1 + (len(curves) > 7))
