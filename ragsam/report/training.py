"""What a training came to: its log as a table and as curves."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.files import atomic_write
from ragsam.report.plots import GRID, INK, bare_figures, figure_png, plot_name

#: Okabe and Ito's colours, which colour-blind readers distinguish.
COLOURS = ("#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#f0e442")
CURVES_NAME = "curves.png"
_STYLES = ("-", "--", ":")

Row = Mapping[str, float | None]


def read_log(path: str | os.PathLike[str]) -> list[dict[str, float | None]]:
    """Read a run's log: a row a validation, None if a field is empty.

    Raises:
        InputError: no log, no row in it, or a field that is missing or no number, named by its row.
    """
    rows = []
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                rows.append(_numbers(row, f"{path}: row {number}"))
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: no log that can be read ({error}); train the run") from error
    if not rows:
        raise InputError(f"{path}: no validation in it; train the run")
    return rows


def _numbers(row: Mapping[str | None, Any], where: str) -> dict[str, float | None]:
    """Return a row's fields as numbers, None if one is empty or not finite."""
    found: dict[str, float | None] = {}
    for name, value in row.items():
        try:
            number = float(value or "nan")
        except (TypeError, ValueError) as error:
            field = name or "more fields than titles"
            raise InputError(
                f"{where}: {field}: a number is needed, got {value!r}; repair or remove the log"
            ) from error
        found[str(name)] = number if math.isfinite(number) else None
    for name in ("epoch", "score"):
        if name not in found:
            raise InputError(f"{where}: {name} is missing; it is not the log of a training")
    if found["epoch"] is None:
        raise InputError(f"{where}: epoch: a number is needed, got {row['epoch']!r}; repair or remove the log")
    return found


def best_row(rows: Sequence[Row]) -> Row:
    """Return the row of the best score; of equals the last."""
    return max(rows, key=lambda row: (row["score"] or 0.0, row["epoch"]))


def training_table(rows: Sequence[Row]) -> list[str]:
    """Return the best and the last validation as lines of a table."""
    best = best_row(rows)
    last = rows[-1]
    titles = {"epoch": "epoch", "loss": "loss", "score": "mean Dice"}
    for name, organ in _columns(last, "dice_").items():
        titles[name] = f"  {organ}"
    width = max(map(len, titles.values())) + 2
    lines = [f"{'':{width}}{'best':>10}{'last':>10}"]
    for name, title in titles.items():
        lines.append(f"{title:{width}}{_cell(best, name):>10}{_cell(last, name):>10}")
    return lines


def write_curves(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write a PNG of loss, Dice and learning rate by epoch; a dashed line marks the best epoch."""
    losses = _columns(rows[-1], "loss_")
    organs = _columns(rows[-1], "dice_")
    figure, axes = bare_figures(3, 3.3, width_inches=11.0)
    _draw(axes[0], rows, {"loss": "all", **losses}, "loss in training")
    _draw(axes[1], rows, {"score": "mean", **organs}, "Dice in validation")
    _draw(axes[2], rows, {"learning_rate": ""}, "learning rate")
    axes[1].axvline(best_row(rows)["epoch"], color="#8796a3", linewidth=1.2, linestyle="--", zorder=1)
    with atomic_write(path) as temporary:
        temporary.write_bytes(figure_png(figure))


def _columns(row: Row, prefix: str) -> dict[str, str]:
    """Return {column: its name without the prefix} of the columns that have it."""
    return {name: name.removeprefix(prefix) for name in row if name.startswith(prefix)}


def _cell(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    if name == "epoch":
        return f"{value:.0f}"
    return f"{value:.4f}"


def _draw(axes: Any, rows: Sequence[Row], curves: Mapping[str, str], title: str) -> None:
    """Draw columns of the log by epoch, the first one thick and dark."""
    looks = cycle(product(_STYLES, COLOURS))
    style, colour = "-", INK
    width, size = 2.2, 4
    for name, label in curves.items():
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=width, marker="o",
                  markersize=size, label=plot_name(label), zorder=3)  # fmt: skip
        style, colour = next(looks)
        width, size = 1.3, 3
    axes.set_xlabel("epoch")
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.grid(color=GRID, linewidth=0.8, axis="both")
    if len(curves) > 1:
        axes.legend(fontsize=7.5, frameon=False, ncols=1 + (len(curves) > 7))
