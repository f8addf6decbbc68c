"""Numbers and findings as people read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ragsam.metrics.scoring import DISTANCES, LOWER_IS_BETTER

TITLES = {
    "dice": "Dice", "iou": "IoU", "nsd": "NSD", "hd95_mm": "HD95", "hd95_pooled_mm": "HD95 pooled", "hd_mm": "HD",
    "assd_mm": "ASSD", "hd95_voxels": "HD95 in voxels",
}  # fmt: skip
NOTHING = "n/a"

# A path's folders, whose names may hold spaces, up to the next option or path; not the slashes of a web address.
_FOLDERS = re.compile(r"""(?<![\w:/.])(?:~|[A-Za-z]:)?[\\/](?:(?:[^\\/:*?"<>|\s]|[ ](?![-~\\/ ]))+[\\/])+""")


def number(value: float | None, metric: str) -> str:
    """Return a score: three decimals for a share, two and the unit for a distance; n/a for None."""
    if value is None:
        return NOTHING
    return f"{value:.{_digits(metric)}f}{_unit(metric)}"


def interval(bounds: list[float] | None, metric: str, *, signed: bool = False) -> str:
    """Return "low to high" without unit; "no interval" for None."""
    if bounds is None:
        return "no interval"
    return " to ".join(f"{bound:{'+' if signed else ''}.{_digits(metric)}f}" for bound in bounds)


def signed(value: float | None, metric: str) -> str:
    """Return a difference with its sign."""
    if value is None:
        return NOTHING
    return f"{value:+.{_digits(metric)}f}{_unit(metric)}"


def probability(p: float | None) -> str:
    """Return a p to three decimals; n/a for None."""
    if p is None:
        return NOTHING
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def verdict(paired: Mapping[str, Any], metric: str) -> str:
    """Return "better" or "worse"; "unclear" where the interval reaches zero, or there is none."""
    bounds = paired["ci95"]
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return "unclear"
    higher = bounds[0] > 0
    return "better" if higher != (metric in LOWER_IS_BETTER) else "worse"


def finding(paired: Mapping[str, Any], metric: str, name: str, baseline_name: str) -> tuple[str, str]:
    """Return a paired difference in words, whichever run it favours: the verdict, and the numbers behind it."""
    title, difference = TITLES[metric], paired["mean_difference"]
    if difference is None:
        return f"{title}: nothing to compare.", f"No patient has a score both {name} and {baseline_name}."
    verdicts = {"better": f"better {name}", "worse": f"worse {name}", "unclear": "no clear difference"}
    bounds = "too few patients for an interval"
    if paired["ci95"] is not None:
        bounds = f"95 % interval {interval(paired['ci95'], metric, signed=True)}"
    patients = f"of {paired['n']} patients {paired['wins']} better, {paired['losses']} worse, {paired['ties']} equal"
    numbers = f"{name} minus {baseline_name}: {signed(difference, metric)}, {bounds}; {patients}."
    return f"{title}: {verdicts[verdict(paired, metric)]}.", numbers[0].upper() + numbers[1:]


def readable(name: str) -> str:
    """Return an organ's name for people."""
    return name.replace("_", " ")


def without_folders(text: str) -> str:
    """Return a text with paths cut to their last part: folders can hold a person's name."""
    return _FOLDERS.sub("", text)


def _digits(metric: str) -> int:
    return 2 if metric in DISTANCES else 3


def _unit(metric: str) -> str:
    return {"mm": " mm", "voxels": " voxels"}[metric.rsplit("_", 1)[1]] if metric in DISTANCES else ""
