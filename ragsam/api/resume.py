"""Runs whose training was interrupted: whether one can go on, and whether a command asks for the training it was."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.runs.run import RunFolder
from ragsam.runs.settings import read_options
from ragsam.runs.templates import given_values
from ragsam.training.checkpoints import LAST_NAME


def can_resume(run: Path) -> bool:
    """Whether a run has the state of a finished epoch to go on from.

    Raises:
        InputError: a trained run of a version that kept no such state.
    """
    if (run / "checkpoints" / LAST_NAME).is_file():
        return True
    if (run / "models").is_dir() and "resume" not in read_options(RunFolder(run, "train").text("train")):
        raise InputError(f"{run}: its version kept no state to resume from; choose another output")
    return False


def require_same_training(run: Path, datalist: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
    """Check that a command names the data and the options that a run was made with.

    Raises:
        InputError: another datalist, or an option of another value.
    """
    text = RunFolder(run, "train").text("train")
    begun = read_options(text)
    for name, value in given_values(text, load_datalist(datalist).path, options).items():
        have = _value(begun, name)
        if have != value:
            what = "--data" if name == "datalist" else f"--set {name}"
            raise InputError(f"{what}: {value!r}, but {run.name} was begun with {have!r}; resume it with its own")


def _value(options: Mapping[str, Any], name: str) -> Any:
    """Return an option's value; of an entry of one by its dotted name."""
    option, dot, entry = name.partition(".")
    value = options.get(option)
    return (value or {}).get(entry) if dot else value
