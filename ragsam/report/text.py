"""Numbers and findings as people read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ragsam.metrics.protocols import LOWER_IS_BETTER

TITLES = {"dice": "Dice", "nsd": "NSD", "hd95_mm": "HD95", "assd_mm": "ASSD"}
NOTHING = "n/a"

# A path's folders, whose names may hold spaces, up to the next option or path; not the slashes of a web address.
_FOLDERS = re.compile(r"""(?<![\w:/.])(?:~|[A-Za-z]:)?[\\/](?:(?:[^\\/:*?"<>|\s]|[ ](?![-~\\/ ]))+[\\/])+""")


def number(value: float | None, metric: str) -> str:
    """Return a score: three decimals for a share, two and the unit for a distance; n/a for None."""
    if value is None:
        return NOTHING
    return f"{value:.2f} mm" if metric.endswith("_mm") else f"{value:.3f}"


def interval(bounds: list[float] | None, metric: str, *, signed: bool = False) -> str:
    """Return "low to high" without unit; "no interval" for None."""
    if bounds is None:
        return "no interval"
    digits = 2 if metric.endswith("_mm") else 3
    return " to ".join(f"{bound:{'+' if signed else ''}.{digits}f}" for bound in bounds)


def signed(value: float | None, metric: str) -> str:
    """Return a difference with its sign."""
    if value is None:
        return NOTHING
    return f"{value:+.2f} mm" if metric.endswith("_mm") else f"{value:+.3f}"


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
