"""Plots of a whole evaluation: scores by organ, volumes, gain over another run. PNG out, the same each time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.metrics.scoring import DISTANCES
from ragsam.report.formatting import TITLES, readable

WIDTH_INCHES, DPI = 4.8, 170
INK, GRID = "#22303c", "#dfe5ea"
MARKERS = {"ok": ("o", 26), "missed": ("X", 52), "false_positive": ("^", 44), "absent": ("s", 26)}
LOG_RATIO = 30.0
MIN_BOX = 4


def spread_plot(metrics: Mapping[str, Any], card: Card, metric: str) -> bytes:
    """Draw each case's score by organ with the quartiles behind.

    A miss or a false positive keeps its place where the metric is a share. Its distance was not measured, and a penalty
    would press the measured ones together: it has a lane of its own at the right, outside the quartiles.
    """
    distance = metric in DISTANCES
    figure, axes = bare_figure(0.42 * len(card.organs) + 1.0)
    entries = {o.name: [e for e in _entries(metrics, o.name) if e[metric] is not None] for o in card.organs}
    measured = [e[metric] for found in entries.values() for e in found if e["status"] == "ok"]
    reach = (1.05 * max(measured, default=0.0) or 1.0) if distance else 1.0
    lane = 1.1 * reach
    for row, organ in enumerate(card.organs):
        found = entries[organ.name]
        if not found:
            continue
        lanes = np.array([distance and entry["status"] != "ok" for entry in found])
        values = np.where(lanes, lane, [entry[metric] for entry in found])
        _box(axes, values[~lanes], row)
        offsets = np.random.default_rng(row).uniform(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        for status, (marker, size) in MARKERS.items():
            chosen = np.array([entry["status"] == status for entry in found])
            axes.scatter(values[chosen], row + offsets[chosen], s=size, marker=marker, color=hex_colour(organ.colour),
                         edgecolors=INK, linewidths=0.6, zorder=3)  # fmt: skip
    _organ_rows(axes, card)
    axes.set_xlim(-0.03 * reach, (1.18 if distance else 1.03) * reach)
    if distance:
        axes.axvspan(1.04 * reach, 1.18 * reach, color="#f6e9e8", zorder=0)
        axes.text(1.11 * reach, -0.62, "not measured", ha="center", va="bottom", fontsize=8, color="#b3261e")
    unit = {"mm": "mm; 0 is perfect", "voxels": "0 is perfect"}.get(metric.rsplit("_", 1)[-1], "1 is perfect")
    axes.set_xlabel(f"{TITLES[metric]} ({unit})")
    return figure_png(figure)


def agreement_plot(agreement: Mapping[str, Any], colour: Sequence[int]) -> bytes:
    """Draw `volume_agreement`: the difference over the mean of both, with bias and limits of agreement.

    The scale is that of the cases in which both have the organ; a miss or a false positive beyond it is at the edge.
    """
    figure, axes = bare_figure(2.3, width_inches=3.1)
    bias, limits = agreement["bias_ml"], agreement["limits_ml"] or ()
    found = [p[1] for p in agreement["points"] if p[2] == "ok"] or [p[1] for p in agreement["points"]]
    reach = max(1.15 * max(map(abs, [bias or 0.0, *limits, *found])), 0.01)
    for status, (marker, size) in MARKERS.items():
        points = np.array([point[:2] for point in agreement["points"] if point[2] == status]).reshape(-1, 2)
        axes.scatter(points[:, 0], np.clip(points[:, 1], -0.94 * reach, 0.94 * reach), s=size, marker=marker,
                     color=hex_colour(colour), edgecolors=INK, linewidths=0.6, zorder=3)  # fmt: skip
    axes.axhline(0, color="#8796a3", linewidth=1.0, zorder=1)
    if bias is not None:
        axes.axhline(bias, color=INK, linewidth=1.5, zorder=2)
    for limit in limits:
        axes.axhline(limit, color=INK, linewidth=1.1, linestyle="--", zorder=2)
    axes.set_ylim(-reach, reach)
    axes.grid(color=GRID, linewidth=0.8, axis="both")
    axes.margins(x=0.08)
    axes.set_xlabel("mean of both (ml)")
    axes.set_ylabel("difference (ml)")
    return figure_png(figure)


def volume_plot(metrics: Mapping[str, Any], card: Card) -> bytes:
    """Draw predicted over reference volume in ml; on the line they agree. Logarithmic where volumes differ much."""
    figure, axes = bare_figure(4.6)
    points: list[float] = []
    for organ in card.organs:
        entries = [entry for entry in _entries(metrics, organ.name) if entry["status"] == "ok"]
        pairs = [(entry["volume_reference_ml"], entry["volume_prediction_ml"]) for entry in entries]
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


def _entries(metrics: Mapping[str, Any], organ: str) -> list[Mapping[str, Any]]:
    return [case["organs"][organ] for case in metrics["cases"]]


def _box(axes: Any, values: NDArray[np.float64], row: int) -> None:
    """Draw the quartiles of four values or more."""
    if len(values) < MIN_BOX:
        return
    pale = {"color": "#aab7c2"}
    axes.boxplot(
        values, positions=[row], orientation="horizontal", widths=0.6, showfliers=False, patch_artist=True,
        boxprops={"facecolor": "#eef2f5", "edgecolor": "#aab7c2"}, medianprops={"color": INK, "linewidth": 2},
        whiskerprops=pale, capprops=pale, zorder=1,
    )  # fmt: skip


def _organ_rows(axes: Any, card: Card) -> None:
    axes.set_yticks(range(len(card.organs)), [plot_name(organ.name) for organ in card.organs])
    axes.set_ylim(len(card.organs) - 0.4, -0.6)


def bare_figure(height_inches: float, *, width_inches: float = WIDTH_INCHES) -> tuple[Any, Any]:
    """Return a bare figure and its axes; object-oriented, so that no display and no global state is touched."""
    figure, (axes,) = bare_figures(1, height_inches, width_inches=width_inches)
    return figure, axes


def bare_figures(count: int, height_inches: float, *, width_inches: float) -> tuple[Any, Sequence[Any]]:
    """Return a bare figure and its axes, so many side by side; see `bare_figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#8796a3")
        axes.tick_params(colors=INK, labelsize=10, length=0)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.grid(color=GRID, linewidth=0.8, axis="x")
        axes.set_axisbelow(True)
    return figure, panels


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
