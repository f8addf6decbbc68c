"""Numbers and findings as people read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ragsam.metrics.scoring import DISTANCES, LOWER_IS_BETTER

TITLES = {
    "dice": "Dice", "iou": "IoU", "nsd": "NSD", "hd95_mm": "HD95", "hd95_pooled_mm": "HD95 pooled",
    "hd95_area_mm": "HD95 by area", "hd_mm": "HD", "assd_mm": "ASSD", "hd95_voxels": "HD95 in voxels",
}  # fmt: skip
TITLES_WITH_UNITS = TITLES | {
    "hd95_mm": "HD95 (mm)", "hd95_pooled_mm": "HD95 pooled (mm)",
    "hd95_area_mm": "HD95 by area (mm)", "hd_mm": "HD (mm)", "assd_mm": "ASSD (mm)",
}  # fmt: skip
NOTHING = "n/a"

# A path's folders, whose names may hold spaces, up to the next option or path; not the slashes of a web address.
_FOLDERS = re.compile(r"""(?<![\w:/.])(?:~|[A-Za-z]:)?[\\/](?:(?:[^\\/:*?"<>|\s]|[ ](?![-~\\/ ]))+[\\/])+""")


def number(value: float | None, metric: str, *, sign: str = "") -> str:
    """Return a score: three decimals for a share, two and the unit for a distance; n/a for None.

    The sign "+" gives a difference, with its sign.
    """
    if value is None:
        return NOTHING
    decimals, unit = _decimals_and_unit(metric)
    return f"{value:{sign}.{decimals}f}{unit}"


def interval(bounds: list[float] | None, metric: str, *, signed: bool = False) -> str:
    """Return "low to high" without unit; "no interval" for None."""
    if bounds is None:
        return "no interval"
    sign = "+" if signed else ""
    decimals, _ = _decimals_and_unit(metric)
    low, high = bounds
    return f"{low:{sign}.{decimals}f} to {high:{sign}.{decimals}f}"


def probability(p: float | None) -> str:
    """Return a p to three decimals; n/a for None."""
    if p is None:
        return NOTHING
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}"


def verdict(paired: Mapping[str, Any], metric: str) -> str:
    """Return "better" or "worse"; "unclear" where the interval reaches zero, or is missing."""
    bounds = paired["ci95"]
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "unclear"
    return direction(bounds[0], metric)


def direction(difference: float, metric: str) -> str:
    """Return "better" or "worse" for a difference from a baseline that is not zero."""
    higher_is_better = metric not in LOWER_IS_BETTER
    if (difference > 0) == higher_is_better:
        return "better"
    return "worse"


def finding(paired: Mapping[str, Any], metric: str, name: str, baseline_name: str) -> tuple[str, str]:
    """Return a paired difference in words, whichever run it favours: the verdict, and the numbers behind it."""
    title = TITLES[metric]
    difference = paired["mean_difference"]
    if difference is None:
        return f"{title}: nothing to compare.", f"No patient has a score both {name} and {baseline_name}."
    verdicts = {"better": f"better {name}", "worse": f"worse {name}", "unclear": "no clear difference"}
    bounds = "too few patients for an interval"
    if paired["ci95"] is not None:
        bounds = f"95 % interval {interval(paired['ci95'], metric, signed=True)}"
    patients = f"of {paired['n']} patients {paired['wins']} better, {paired['losses']} worse, {paired['ties']} equal"
    numbers = f"{name} minus {baseline_name}: {number(difference, metric, sign='+')}, {bounds}; {patients}."
    return f"{title}: {verdicts[verdict(paired, metric)]}.", numbers[0].upper() + numbers[1:]


def readable(name: str) -> str:
    """Return an organ's name for people."""
    return name.replace("_", " ")


def without_folders(text: str) -> str:
    """Return a text with paths cut to their last part: folders can hold a person's name."""
    return _FOLDERS.sub("", text)


def _decimals_and_unit(metric: str) -> tuple[int, str]:
    if metric not in DISTANCES:
        return 3, ""
    return 2, " " + metric.rsplit("_", 1)[1]
