"""Trials of a benchmark's grid: each in a process of its own, on one core, and kept once it is done."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json


def two_set_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of a benchmark on both sets, described by the first line of its docstring."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--hippocampus", type=Path, help="folder with imagesTr, labelsTr and subjects.csv")
    parser.add_argument("--head-neck", type=Path, help="folder with images, labels and manifest.csv")
    return parser


def start_trial(script: str, trial: dict[str, Any], datalist: Path, folder: Path) -> dict[str, Any]:
    """Have a script run a trial (`--trial FOLDER --datalist FILE`), unless it is done; return it with its result."""
    result = folder / "result.json"
    if not result.exists():
        shutil.rmtree(folder, ignore_errors=True)  # of a trial that was stopped
        write_json_atomic(folder / "trial.json", trial)
        command = [sys.executable, script, "--trial", str(folder), "--datalist", str(datalist)]
        with (folder / "log.txt").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return {**trial, **read_json(result)}
