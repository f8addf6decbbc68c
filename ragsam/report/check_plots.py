"""Plots of a data set: grids, intensities, organ volumes and who annotates what. PNG out, the same each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.report.plots import INK, LOG_RATIO, bare_figure, figure_png, hex_colour, name_rows

WIDE_INCHES = 10.4
ACCENT, PALE, MIDDLE, ALARM = "#0b6570", "#eef2f5", "#8796a3", "#b3261e"
AXES = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
AXIS_NAMES = ("right-left", "front-back", "head-foot")


def axis_plot(cases: Sequence[Mapping[str, Any]], key: str, title: str) -> bytes:
    """Draw what each case has under a key along the three axes of the body."""
    figure, axes = bare_figure(2.6)
    found = np.array([body_axes(case, key) for case in cases if case[key]], dtype=float).reshape(-1, 3)
    for row, values in enumerate(found.T):
        offsets = np.random.default_rng(row).uniform(-0.28, 0.28, len(values))
        axes.scatter(values, row + offsets, s=20, color=ACCENT, alpha=0.45, linewidths=0, zorder=3)
        if len(values):
            axes.plot([np.median(values)] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=2.2, zorder=4)
    name_rows(axes, AXIS_NAMES)
    axes.set_xlim(0, 1.06 * found.max(initial=0.0) or 1.0)
    axes.set_xlabel(title)
    return figure_png(figure)


def intensity_plot(cases: Sequence[Mapping[str, Any]], window: tuple[float, float] | None) -> bytes:
    """Draw every case's percentiles as an upright line, by rising median, with the card's window behind."""
    figure, axes = bare_figure(3.4, width_inches=WIDE_INCHES)
    found = [case["intensity"] for case in cases if case["intensity"]]
    found.sort(key=itemgetter("p50", "p99.5", "p0.5"))
    x = np.arange(len(found))
    if window is not None:
        axes.axhspan(*window, color=PALE, zorder=0)
        axes.text(1.0, window[1], "card's window ", transform=axes.get_yaxis_transform(), ha="right", va="top",
                  fontsize=9, color=MIDDLE)  # fmt: skip
    at = {key: np.array([case[key] for case in found]) for key in ("p0.5", "p5", "p50", "p95", "p99.5")}
    width = float(np.clip(500 / max(len(found), 1), 1.0, 9.0))
    axes.vlines(x, at["p0.5"], at["p99.5"], color="#b9cfd3", linewidth=0.45 * width)
    axes.vlines(x, at["p5"], at["p95"], color=ACCENT, linewidth=0.8 * width)
    axes.scatter(x, at["p50"], s=3 * width, color="white", edgecolors=INK, linewidths=0.6, zorder=3)
    tops = at["p99.5"] - at["p0.5"]
    if len(found) and tops.max() > LOG_RATIO * max(float(np.median(tops)), 1e-9):
        axes.set_yscale("symlog", linthresh=max(float(tops.min()), 1e-9))
    axes.grid(axis="x", visible=False)
    axes.grid(axis="y", color="#dfe5ea", linewidth=0.8)
    axes.set_xticks([])
    axes.set_xlim(-1, max(len(found), 1))
    axes.set_xlabel("a line a case, by rising median")
    return figure_png(figure)


def organ_plot(summary: Mapping[str, Any], card: Card) -> bytes:
    """Draw each case's organ volumes over the usual range, outliers ringed and named, on a logarithmic axis."""
    from matplotlib.ticker import LogLocator

    figure, axes = bare_figure(0.5 * len(card.organs) + 1.0, width_inches=WIDE_INCHES)
    axes.set_xscale("log")
    for row, organ in enumerate(card.organs):
        usual = summary["organs"][organ.name]["usual_ml"]
        if usual is not None:
            axes.plot(usual, [row, row], color="#e3e9ed", linewidth=16, solid_capstyle="butt", zorder=1)
        known = [case for case in summary["cases"] if (case["organs_ml"] or {}).get(organ.name)]
        offsets = np.random.default_rng(row).uniform(-0.26, 0.26, len(known))
        for case, y in zip(known, row + offsets, strict=True):
            volume = case["organs_ml"][organ.name]
            look = {"s": 16, "edgecolors": INK, "linewidths": 0.4}
            if organ.name in case["outliers"]:
                look = {"s": 44, "edgecolors": ALARM, "linewidths": 1.8}
                axes.annotate(case["case"].replace("$", r"\$"), (volume, y), (7, 0), textcoords="offset points",
                              fontsize=8.5, color=ALARM, va="center", zorder=4)  # fmt: skip
            axes.scatter(volume, y, color=hex_colour(organ.colour), zorder=3, **look)
    name_rows(axes, list(card.labels))
    axes.set_xlabel("volume (ml)")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    return figure_png(figure)


def annotation_plot(summary: Mapping[str, Any], card: Card) -> bytes:
    """Draw in how many cases each organ is annotated (pale) and has voxels (full)."""
    figure, axes = bare_figure(0.36 * len(card.organs) + 0.9, width_inches=WIDE_INCHES)
    total = max(summary["n_cases"], 1)
    for row, organ in enumerate(card.organs):
        counts = summary["organs"][organ.name]
        axes.barh(row, total, height=0.62, color=PALE, zorder=1)
        axes.barh(row, counts["annotated"], height=0.62, color="#c4d2d8", zorder=2)
        axes.barh(row, counts["present"], height=0.62, color=hex_colour(organ.colour), edgecolor=INK, linewidth=0.5,
                  zorder=3)  # fmt: skip
        axes.text(1.01 * total, row, f"{counts['present']} of {summary['n_cases']}", va="center", fontsize=9.5,
                  color=INK)  # fmt: skip
    name_rows(axes, list(card.labels))
    axes.set_xlim(0, 1.09 * total)
    axes.set_xlabel("cases")
    axes.grid(visible=False)
    return figure_png(figure)


def body_axes(case: Mapping[str, Any], key: str) -> list[float]:
    """Return a case's value along the right-left, front-back and head-foot axis, whatever its file's axis order."""
    values = [0.0, 0.0, 0.0]
    for letter, value in zip(case["orientation"], case[key], strict=True):
        values[AXES[letter]] = value
    return values
