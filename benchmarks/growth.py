"""How cost grows: time and memory against slices, image size, classes, slices in the bank and patients in training.

    OMP_NUM_THREADS=1 python benchmarks/growth.py [--axes slices bank] [--points 3] [--figure docs/img/growth.png]

Everything is made, networks have random weights, and each point runs in a process of its own (`growth_axes.py`).
Seconds are the processor's; memory is the peak that the kernel counts (ru_maxrss) above what was resident before. A
slope is that of a straight line through the logarithms: 1 is linear. Beside the line through all points stands that
through the last three, where fixed costs weigh least. An axis that was measured whole is kept in `results/growth.json`,
of which the figure is drawn. Returns 1 where the last three are steeper than `LINEAR`, attention over all tokens aside.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth_axes import AXES, Costs, Stage
from record import record

from ragsam.console.malloc import keep_freed_memory

#: Steeper than this is not linear; times of a shared machine scatter.
LINEAR = 1.15
POINTS = Path(__file__).parent / "results" / "growth.json"
MEASURES = ("seconds", "MB")
#: Less than this cannot be distinguished from nothing: seconds, MB.
TINY = 1e-3


def in_process(stage: Stage, value: int, folder: Path) -> Costs:
    """Run a stage in a process of its own, which has the imports of this one."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(stage, (value, folder))


def measured(axis: str, points: int | None) -> dict[str, Any]:
    """Return {series: {value: (seconds, MB)}} of an axis's first so many points."""
    found: dict[str, Any] = {}
    for value in AXES[axis].values[:points]:
        with tempfile.TemporaryDirectory() as folder:
            for stage in AXES[axis].stages:
                for series, costs in in_process(stage, value, Path(folder)).items():
                    found.setdefault(series, {})[str(value)] = costs
                    sys.stderr.write(f"{axis} {value}: {series}: {costs}\n")
    return found


def curve(axis: str, costs: dict[str, Any], measure: int) -> tuple[np.ndarray, np.ndarray]:
    """Return abscissas and values of what was measured."""
    pairs = [
        (AXES[axis].scale(int(value)), cost[measure]) for value, cost in costs.items() if cost[measure] is not None
    ]
    x, y = np.array(pairs, float).reshape(-1, 2).T
    return x, np.maximum(y, TINY)


def slopes(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Return the slope of the line through all logarithms, and of that through the last three."""
    if len(x) < 2:
        return None
    x, y = np.log(x), np.log(y)
    return float(np.polyfit(x, y, 1)[0]), float(np.polyfit(x[-3:], y[-3:], 1)[0])


def row(axis: str, series: str, costs: dict[str, Any]) -> tuple[str, bool]:
    """Return a series' row of the table, and whether it grows no faster than it may."""
    values, cells, steepest = list(costs), [], 0.0
    for measure in range(len(MEASURES)):
        x, y = curve(axis, costs, measure)
        found = slopes(x, y)
        ends = " to ".join(f"{end:.2g}" if end < 100 else f"{end:.0f}" for end in y[[0, -1]]) if len(y) else ""
        cells += [ends, "" if found is None else f"{found[0]:.2f}", "" if found is None else f"{found[1]:.2f}"]
        steepest = max(steepest, found[1] if found else 0.0)
    fine = steepest <= LINEAR
    verdict = "yes" if fine else ("attention" if series in AXES[axis].attention else "NO")
    where = f"{AXES[axis].title}, {values[0]} to {values[-1]}"
    return f"| {where} | {series} | {' | '.join(cells)} | {verdict} |", verdict != "NO"


def draw(points: dict[str, Any], path: Path) -> None:
    """Draw a column an axis, seconds above and MB below, with grey lines of slope 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(18, 7.5), dpi=64, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for column, axis in zip(figure.subplots(2, len(AXES)).T, AXES, strict=True):
        values = np.array([AXES[axis].scale(value) for value in AXES[axis].values], float)
        for measure, panel in enumerate(column):
            for series, costs in points.get(axis, {}).items():
                panel.plot(*curve(axis, costs, measure), "o-", markersize=4, linewidth=1.5, label=series)
            panel.set(xscale="log", yscale="log", ylabel=MEASURES[measure], xlim=(values[0] / 1.2, values[-1] * 1.2))
            low, high = panel.get_ylim()
            for start in np.geomspace(low * values[0] / values[-1], high, 9):
                panel.plot(values, start * values / values[0], color="0.88", linewidth=0.8, zorder=0)
            panel.set_ylim(low, high)
            labels = [f"{value}²" if axis == "size" else f"{value:,}" for value in AXES[axis].values]
            panel.set_xticks(values, labels)
            panel.minorticks_off()
        column[0].set_title(AXES[axis].title)
        column[1].legend(*column[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128).save(path, optimize=True)


def main() -> int:
    """Measure, print the table, and return 1 where something grows too fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--points", type=int, help="the first so many points of each axis (default: all)")
    parser.add_argument("--figure", type=Path, help="draw all axes that were measured whole")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as every config of a bundle does
    found = {axis: measured(axis, args.points) for axis in args.axes}
    rows = [row(axis, series, costs) for axis in args.axes for series, costs in found[axis].items()]
    head = ["what grows", "what is measured", "s", "slope", "of the last three"]
    head += ["MB", "slope", "of the last three", "at most linear"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(line for line, _ in rows)]
    record("growth", [*lines, "", f"slopes by the logarithm; linear up to {LINEAR}; 1 thread"])
    if args.points is None:
        kept = json.loads(POINTS.read_text(encoding="utf-8")) if POINTS.is_file() else {}
        POINTS.write_text(json.dumps({**kept, **found}, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw(json.loads(POINTS.read_text(encoding="utf-8")), args.figure)
    return int(not all(fine for _, fine in rows))


if __name__ == "__main__":
    raise SystemExit(main())
