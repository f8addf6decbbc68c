"""What a benchmark prints, kept in `benchmarks/results/` with date and hardware."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch


def record(name: str, lines: Sequence[str]) -> None:
    """Print a table and its notes, and add them to `results/NAME.md`."""
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    where = f"{date.today()}; {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}; {load}"
    text = "\n".join([*lines, "", where]) + "\n"
    sys.stdout.write(text)
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.md").open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
