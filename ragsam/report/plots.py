"""Plots of a whole evaluation: scores by organ, volumes, gain over another run. PNG out, the same each time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.metrics.scoring import DISTANCES
from ragsam.report.formatting import TITLES, readable

WIDTH_INCHES, DPI = 4.8, 170
INK, GREY, GRID = "#22303c", "#8796a3", "#dfe5ea"
EDGE: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.6, "zorder": 3}
MARKERS = {"ok": ("o", 26), "missed": ("X", 52), "false_positive": ("^", 44), "absent": ("s", 26)}
BOX: dict[str, Any] = {
    "orientation": "horizontal", "widths": 0.6, "showfliers": False, "patch_artist": True, "zorder": 1,
    "boxprops": {"facecolor": "#eef2f5", "edgecolor": "#aab7c2"}, "medianprops": {"color": INK, "linewidth": 2},
    "whiskerprops": {"color": "#aab7c2"}, "capprops": {"color": "#aab7c2"},
}  # fmt: skip
LOG_RATIO = 30.0
_VOLUMES = itemgetter("volume_reference_ml", "volume_prediction_ml")
MIN_BOX = 4


def spread_plot(metrics: Mapping[str, Any], card: Card, metric: str) -> bytes:
    """Draw each case's score by organ with the quartiles behind.

    A miss or a false positive keeps its place where the metric is a share. Its distance was not measured, and a penalty
    would press the measured ones together: it has a lane of its own at the right, outside the quartiles.
    """
    is_distance = metric in DISTANCES
    figure, axes = bare_figure(0.42 * len(card.organs) + 1.0)
    found = {organ.name: _scores(metrics, organ.name, metric) for organ in card.organs}
    reach = 1.0
    if is_distance:
        measured = [scores[statuses == "ok"].max(initial=0.0) for scores, statuses in found.values()]
        reach = 1.05 * max(measured) or 1.0
    for row, organ in enumerate(card.organs):
        scores, statuses = found[organ.name]
        in_lane = (statuses != "ok") & is_distance
        scores = np.where(in_lane, 1.1 * reach, scores)
        if np.count_nonzero(~in_lane) >= MIN_BOX:
            axes.boxplot(scores[~in_lane], positions=[row], **BOX)
        offsets = np.random.default_rng(row).uniform(-0.2, 0.2, len(scores))
        if len(scores) == 1:
            offsets[:] = 0.0
        for status, (marker, size) in MARKERS.items():
            chosen = statuses == status
            axes.scatter(
                scores[chosen], row + offsets[chosen], s=size, marker=marker, color=hex_colour(organ.colour), **EDGE
            )
    name_rows(axes, [organ.name for organ in card.organs])
    axes.set_xlim(-0.03 * reach, 1.03 * reach)
    if is_distance:
        axes.set_xlim(-0.03 * reach, 1.18 * reach)
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
    means, differences, statuses = map(np.array, zip(*agreement["points"], strict=True))
    in_both = statuses == "ok"
    if not in_both.any():
        in_both[:] = True
    bias = agreement["bias_ml"]
    limits = agreement["limits_ml"] or []
    reach = max(1.15 * np.abs([bias or 0.0, *limits, *differences[in_both]]).max(), 0.01)
    for status, (marker, size) in MARKERS.items():
        chosen = statuses == status
        shown = np.clip(differences[chosen], -0.94 * reach, 0.94 * reach)
        axes.scatter(means[chosen], shown, s=size, marker=marker, color=hex_colour(colour), **EDGE)
    axes.axhline(0, color=GREY, linewidth=1.0, zorder=1)
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
        entries = [case["organs"][organ.name] for case in metrics["cases"]]
        both = [_VOLUMES(entry) for entry in entries if entry["status"] == "ok"]
        if both:
            x, y = zip(*both, strict=True)
            points += [*x, *y]
            axes.scatter(x, y, s=30, color=hex_colour(organ.colour), **EDGE)
    if points:
        low, high = min(points), max(points)
        edge = 0.08 * (high - low) or 0.1 * high
        limits = max(0.0, low - edge), high + edge
        if high / low > LOG_RATIO:
            axes.set(xscale="log", yscale="log")
            limits = low / 1.5, high * 1.5
        axes.plot(limits, limits, color=GREY, linewidth=1.2, linestyle="--", zorder=2)
        axes.set(xlim=limits, ylim=limits)
    axes.set_aspect("equal", adjustable="box")
    axes.grid(color=GRID, linewidth=0.8, axis="both")
    axes.set_xlabel("reference (ml)")
    axes.set_ylabel("prediction (ml)")
    return figure_png(figure)


def gain_plot(comparison: Mapping[str, Any], card: Card) -> bytes:
    """Draw `compare_metrics`' difference in Dice, over all and by organ, with its 95 % intervals."""
    rows = {"mean of organs": (comparison["mean"]["dice"], INK, "D")}
    for organ in card.organs:
        rows[organ.name] = (comparison["organs"][organ.name]["dice"], hex_colour(organ.colour), "o")
    rows = {name: row for name, row in rows.items() if row[0]["mean_difference"] is not None}
    figure, axes = bare_figure(0.4 * len(rows) + 1.1)
    axes.axvline(0, color=GREY, linewidth=1.2)
    reached = [0.01]
    for row, (paired, colour, marker) in enumerate(rows.values()):
        interval = paired["ci95"] or []
        reached += [paired["mean_difference"], *interval]
        axes.plot(interval, [row] * len(interval), color=INK, linewidth=1.6, zorder=2)
        axes.scatter(
            paired["mean_difference"], row, s=52, marker=marker, color=colour, edgecolors=INK, linewidths=0.7, zorder=3
        )
    reach = np.abs(reached).max()
    name_rows(axes, list(rows))
    axes.set_xlim(-1.15 * reach, 1.15 * reach)
    axes.set_xlabel("difference in Dice")
    return figure_png(figure)


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """Write names beside rows 0, 1, 2 and so on, from the top."""
    axes.set_yticks(range(len(names)), map(plot_name, names))
    axes.set_ylim(len(names) - 0.4, -0.6)


def _scores(metrics: Mapping[str, Any], organ: str, key: str) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Return what the cases have under a key for an organ, without what is None, and their statuses."""
    entries = [case["organs"][organ] for case in metrics["cases"]]
    values = np.array([entry[key] for entry in entries], dtype=float)
    statuses = np.array([entry["status"] for entry in entries], dtype=str)
    known = ~np.isnan(values)
    return values[known], statuses[known]


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
        axes.spines["bottom"].set_color(GREY)
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
