"""Plots of runs compared with the first one. PNG out, the same each time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.metrics.scoring import DISTANCES, LOWER_IS_BETTER
from ragsam.report.formatting import TITLES, TITLES_WITH_UNITS
from ragsam.report.plots import GREY, GRID, INK, LOG_RATIO, bare_figure, figure_png, name_rows, plot_name

#: Okabe and Ito's colours, which colour-blind readers distinguish; the first run has the first.
COLOURS = ("#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#f0e442")
WIDE_INCHES = 10.4
MAX_CASES = 40
_OUTCOMES = {"wins": ("#5e3c99", "white"), "ties": ("#d5dce1", INK), "losses": ("#e08214", "white")}


def run_colour(place: int) -> str:
    """Return the colour of a run by its place, the first being 0."""
    return COLOURS[place % len(COLOURS)]


def difference_plot(comparisons: Sequence[Mapping[str, Any]], metric: str) -> bytes:
    """Draw each run's mean difference from the first with its 95 % interval, over all and by organ."""
    names = ["mean of organs", *comparisons[0]["organs"]]
    height = 0.2 + 0.2 * len(comparisons)
    figure, axes = bare_figure(height * len(names) + 1.0)
    axes.axvline(0, color=GREY, linewidth=1.2)
    reached = [0.0]
    for place, comparison in enumerate(comparisons):
        colour = run_colour(place + 1)
        shift = (place - (len(comparisons) - 1) / 2) * 0.2 / height
        for row, entry in enumerate([comparison["mean"], *comparison["organs"].values()]):
            difference = entry[metric]["mean_difference"]
            if difference is None:
                continue
            interval = entry[metric]["ci95"] or []
            reached += [difference, *interval]
            y = row + shift
            axes.plot(interval, [y] * len(interval), color=colour, linewidth=2.0, zorder=2)
            axes.scatter([difference], [y], s=44, marker="o" if row else "D", zorder=3, color=colour, edgecolors=INK,
                         linewidths=0.7)  # fmt: skip
    _scale(axes, np.array(reached))
    name_rows(axes, names)
    side = "left" if metric in LOWER_IS_BETTER else "right"
    axes.set_xlabel(f"difference in {TITLES_WITH_UNITS[metric]}; better to the {side}")
    return figure_png(figure)


def _scale(axes: Any, reached: NDArray[np.float64]) -> None:
    """Fit the axis of differences to what it shows."""
    powers = _powers(reached)
    if powers:
        axes.set_xscale("symlog", linthresh=powers[0])
        axes.set_xticks([*np.negative(powers), 0.0, *powers])
        axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
        axes.minorticks_off()
    far = float(np.abs(reached).max())
    low = min(reached.min(), -0.1 * far)
    high = max(reached.max(), 0.1 * far)
    axes.set_xlim(1.15 * low or -1.0, 1.15 * high or 1.0)


def _powers(values: NDArray[np.float64]) -> list[float]:
    """Return the powers of ten for a logarithmic axis, where one value outweighs all else, as a miss does."""
    far = float(np.abs(values).max())
    usual = float(np.median(np.abs(values)))
    if usual <= 0 or far <= LOG_RATIO * usual:
        return []
    lowest = math.ceil(math.log10(usual))
    highest = math.floor(math.log10(far))
    return [10.0**power for power in range(lowest, highest + 1)]


def case_plot(comparisons: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw each case's mean Dice in a run over that in the first; above the line the run is better."""
    figure, axes = bare_figure(4.6)
    every: list[float] = []
    for place, comparison in enumerate(comparisons):
        dice = np.array([case["dice"] for case in comparison["cases"]]).reshape(-1, 2)
        every += dice.ravel().tolist()
        colour = run_colour(place + 1)
        axes.scatter(dice[:, 1], dice[:, 0], s=30, color=colour, edgecolors=INK, linewidths=0.5, zorder=3)
    low, high = min(every, default=0.0), max(every, default=1.0)
    edge = 0.06 * (high - low) or 0.02
    limits = low - edge, high + edge
    axes.plot(limits, limits, color=GREY, linewidth=1.2, linestyle="--", zorder=2)
    axes.set(xlim=limits, ylim=limits, xlabel="mean Dice, first run", ylabel="mean Dice, other run")
    axes.set_aspect("equal", adjustable="box")
    axes.grid(color=GRID, linewidth=0.8, axis="both")
    return figure_png(figure)


def outcome_plot(comparison: Mapping[str, Any], metric: str) -> bytes:
    """Draw for how many patients a run is better, equal and worse than the first, by organ."""
    figure, axes = bare_figure(0.36 * len(comparison["organs"]) + 1.0)
    for row, entry in enumerate(comparison["organs"].values()):
        left = 0
        for key, (colour, ink) in _OUTCOMES.items():
            patients = entry[metric][key]
            axes.barh(row, patients, left=left, height=0.66, color=colour, zorder=2)
            if patients:
                place = left + patients / 2
                axes.text(place, row, str(patients), ha="center", va="center", fontsize=9, color=ink)
            left += patients
    name_rows(axes, list(comparison["organs"]))
    axes.set_xlim(0, max(comparison["n_patients"], 1))
    axes.set_xlabel(f"patients: better, equal, worse in {TITLES[metric]}")
    axes.grid(visible=False)
    return figure_png(figure)


def case_organ_plot(comparison: Mapping[str, Any]) -> bytes:
    """Draw the difference in Dice of every organ of the cases that differ most, as a map of colours."""
    from matplotlib.colors import TwoSlopeNorm

    cases = comparison["cases"][:MAX_CASES]
    organs = list(comparison["organs"])
    table = np.array([[case["organs"].get(organ, np.nan) for organ in organs] for case in cases])
    table = table.reshape(-1, len(organs))
    figure, axes = bare_figure(0.27 * max(len(cases), 1) + 2.2, width_inches=WIDE_INCHES)
    reach = float(np.nanmax(np.abs(table), initial=0.0)) or 1.0
    axes.set_facecolor("#eef2f5")
    image = axes.imshow(table, cmap="PuOr", norm=TwoSlopeNorm(0, -reach, reach), aspect="auto")
    _name_columns(axes, organs)
    axes.set_yticks(range(len(cases)), [case["case"].replace("$", r"\$")[:40] for case in cases])
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.015)
    bar.set_label("difference in Dice", color=INK)
    bar.outline.set_visible(False)
    return figure_png(figure)


def spread_plot(runs: Mapping[str, Mapping[str, Any]], metric: str) -> bytes:
    """Draw each run's scores of all cases by organ, as boxes side by side; runs: {name: content of metrics.json}."""
    organs = list(next(iter(runs.values()))["summary"]["organs"])
    figure, axes = bare_figure(3.6, width_inches=WIDE_INCHES)
    width = 0.8 / len(runs)
    drawn = [0.0]
    for place, run in enumerate(runs.values()):
        shift = (place - (len(runs) - 1) / 2) * width
        for column, organ in enumerate(organs):
            scores = [case["organs"][organ].get(metric) for case in run["cases"]]
            scores = [score for score in scores if score is not None]
            drawn += scores
            if scores:
                axes.boxplot(
                    scores, positions=[column + shift], widths=0.8 * width, patch_artist=True, manage_ticks=False,
                    boxprops={"facecolor": run_colour(place), "edgecolor": INK, "linewidth": 0.7},
                    medianprops={"color": INK, "linewidth": 1.6}, whiskerprops={"color": GREY},
                    capprops={"color": GREY}, flierprops={"marker": ".", "markersize": 4, "markeredgecolor": GREY},
                )  # fmt: skip
    _name_columns(axes, organs)
    axes.set_xlim(-0.6, len(organs) - 0.4)
    axes.set_ylabel(TITLES_WITH_UNITS[metric])
    if metric in DISTANCES:
        powers = _powers(np.array(drawn))
        if powers:
            axes.set_yscale("symlog", linthresh=powers[0])
            axes.set_yticks([0.0, *powers])
            axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
            axes.minorticks_off()
        axes.set_ylim(0, 1.1 * max(drawn) or 1.0)
    axes.grid(axis="x", visible=False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    return figure_png(figure)


def _name_columns(axes: Any, organs: Sequence[str]) -> None:
    axes.set_xticks(range(len(organs)), map(plot_name, organs), rotation=40, ha="right", rotation_mode="anchor")
