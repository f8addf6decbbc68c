"""Plots of a whole evaluation: Dice by organ, volume agreement, gain over another run. PNG out, the same each time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ragsam.data.cards import Card
from ragsam.metrics.protocols import COUNTED
from ragsam.report.text import readable

WIDTH_INCHES, DPI = 4.8, 170
INK, GRID = "#22303c", "#dfe5ea"
MARKERS = {"ok": ("o", 26), "missed": ("X", 52), "false_positive": ("^", 44)}
LOG_RATIO = 30.0


def dice_plot(metrics: Mapping[str, Any], card: Card) -> bytes:
    """Draw each case's Dice by organ with the quartiles behind; misses and false positives keep their place at 0."""
    figure, axes = bare_figure(0.42 * len(card.organs) + 1.0)
    for row, organ in enumerate(card.organs):
        entries = [case["organs"][organ.name] for case in metrics["cases"]]
        entries = [entry for entry in entries if entry["status"] in COUNTED]
        if not entries:
            continue
        values = np.array([entry["dice"] for entry in entries])
        if len(values) >= 4:
            axes.boxplot(
                values, positions=[row], orientation="horizontal", widths=0.6, showfliers=False, patch_artist=True,
                boxprops={"facecolor": "#eef2f5", "edgecolor": "#aab7c2"}, medianprops={"color": INK, "linewidth": 2},
                whiskerprops={"color": "#aab7c2"}, capprops={"color": "#aab7c2"}, zorder=1,
            )  # fmt: skip
        offsets = np.random.default_rng(row).uniform(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        for status, (marker, size) in MARKERS.items():
            chosen = np.array([entry["status"] == status for entry in entries])
            axes.scatter(values[chosen], row + offsets[chosen], s=size, marker=marker, color=hex_colour(organ.colour),
                         edgecolors=INK, linewidths=0.6, zorder=3)  # fmt: skip
    axes.set_yticks(range(len(card.organs)), [plot_name(organ.name) for organ in card.organs])
    axes.set_ylim(len(card.organs) - 0.4, -0.6)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("Dice (1 is perfect)")
    return figure_png(figure)


def volume_plot(metrics: Mapping[str, Any], card: Card) -> bytes:
    """Draw predicted over reference volume in ml; on the line they agree. Logarithmic where volumes differ much."""
    figure, axes = bare_figure(4.6)
    points: list[float] = []
    for organ in card.organs:
        entries = [case["organs"][organ.name] for case in metrics["cases"]]
        pairs = [(e["volume_reference_ml"], e["volume_prediction_ml"]) for e in entries if e["status"] == "ok"]
        if pairs:
            x, y = np.array(pairs).T
            points += [*x.tolist(), *y.tolist()]
            axes.scatter(x, y, s=30, color=hex_colour(organ.colour), edgecolors=INK, linewidths=0.6, zorder=3)
    if points:
        low, high = min(points), max(points)
        if high / low > LOG_RATIO:
            axes.set_xscale("log")
            axes.set_yscale("log")
            limits = low / 1.5, high * 1.5
        else:
            edge = 0.08 * (high - low) or 0.1 * high
            limits = max(0.0, low - edge), high + edge
        axes.plot(limits, limits, color="#8796a3", linewidth=1.2, linestyle="--", zorder=2)
        axes.set_xlim(limits)
        axes.set_ylim(limits)
    axes.set_aspect("equal", adjustable="box")
    axes.grid(color=GRID, linewidth=0.8, axis="both")
    axes.set_xlabel("reference (ml)")
    axes.set_ylabel("prediction (ml)")
    return figure_png(figure)


def gain_plot(comparison: Mapping[str, Any], card: Card) -> bytes:
    """Draw `compare_metrics`' difference in Dice, over all and by organ, with its 95 % intervals."""
    rows: list[tuple[str, Mapping[str, Any], str]] = [("mean of organs", comparison["mean"]["dice"], INK)]
    rows += [(plot_name(o.name), comparison["organs"][o.name]["dice"], hex_colour(o.colour)) for o in card.organs]
    rows = [row for row in rows if row[1]["mean_difference"] is not None]
    figure, axes = bare_figure(0.4 * len(rows) + 1.1)
    axes.axvline(0, color="#8796a3", linewidth=1.2)
    reach = 0.01
    for row, (_, paired, colour) in enumerate(rows):
        mean, interval = paired["mean_difference"], paired["ci95"]
        reach = max(reach, *map(abs, [mean, *(interval or [])]))
        if interval:
            axes.plot(interval, [row, row], color=INK, linewidth=1.6, zorder=2)
        marker = "D" if row == 0 else "o"
        axes.scatter([mean], [row], s=52, marker=marker, color=colour, edgecolors=INK, linewidths=0.7, zorder=3)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-1.15 * reach, 1.15 * reach)
    axes.set_xlabel("difference in Dice")
    return figure_png(figure)


def bare_figure(height_inches: float, *, width_inches: float = WIDTH_INCHES) -> tuple[Any, Any]:
    """Return a bare figure and its axes; object-oriented, so that no display and no global state is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#8796a3")
    axes.tick_params(colors=INK, labelsize=10, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=GRID, linewidth=0.8, axis="x")
    axes.set_axisbelow(True)
    return figure, axes


def figure_png(figure: Any) -> bytes:
    """Return a figure as a PNG, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def hex_colour(colour: Sequence[int]) -> str:
    """Return an RGB colour, 0-255, as matplotlib takes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def plot_name(name: str) -> str:
    """Return an organ's name for people, in which matplotlib finds no mathematics."""
    return readable(name).replace("$", r"\$")
