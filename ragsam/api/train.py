"""Training: make a run and train it, or continue with one that was interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.api.run import Run
from ragsam.console.library_warnings import told_once
from ragsam.data.datalist import load_datalist
from ragsam.drafts import remove_drafts
from ragsam.errors import InputError
from ragsam.files import write_text_atomic
from ragsam.report.training import CURVES_NAME, read_log, write_curves
from ragsam.runs.recipes import recipe as named_recipe
from ragsam.runs.run import WEIGHTS, RunFolder, run_config
from ragsam.runs.settings import read_options, set_options
from ragsam.runs.templates import given_values, make_run
from ragsam.training.checkpoints import LAST_NAME


def train(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    recipe: str | None = None,
    resume: bool = False,
) -> Run:
    """Train a run, as `ragsam train` does, and return it.

    Args:
        bundle: a bundle's folder, or the name of a packaged one (`sam_lora`).
        output: the run's folder, which is made.
        options: values by the options' names, see docs/reference/options.md.
        recipe: options by a name, see docs/how-to/train.md; `options` take precedence.
        resume: continue where a training of `output` was stopped, or begin.

    Raises:
        InputError: as `train_run`.

    Examples:
        >>> import ragsam
        >>> short = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2}
        >>> run = ragsam.train("sam_lora", "runs/hippocampus.json", "runs/short", short)
        >>> run.path.name
        'short'
    """
    chosen = named_recipe(recipe) if recipe else {}
    return Run(train_run(bundle, datalist, output, {**chosen, **(options or {})}, resume=resume))


@told_once()
def train_run(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
) -> Path:
    """Make a run and train it; see `make_run`. Where bad input or Ctrl-C stops it before there are weights, no new run
    is left.

    Args:
        resume: continue with the run of `output` after the last epoch that it finished, or begin a new one. With
            more `epochs` it trains longer.

    Raises:
        InputError: as `make_run`, a faulty case, or a run that was started with other data or options.
    """
    run = Path(output)
    fresh = not run.exists() or (run.is_dir() and not any(run.iterdir()))
    going_on = resume and _has_state(run)
    if going_on:
        _require_same_training(run, datalist, options or {})
        remove_drafts(run, below=True)
        _lengthen(run, options or {})
    else:
        make_run(bundle, datalist, output, options, again=resume)
    try:
        run_config(run, "train", resume=going_on)
    except (InputError, KeyboardInterrupt):
        if fresh and not (run / WEIGHTS).exists() and not _has_state(run):
            shutil.rmtree(run)
        raise
    write_curves(read_log(run / "log.csv"), run / CURVES_NAME)
    return run


def _has_state(run: Path) -> bool:
    """Whether a run has the state of a finished epoch to continue from.

    Raises:
        InputError: a trained run of a version that kept no such state.
    """
    if (run / "checkpoints" / LAST_NAME).is_file():
        return True
    if (run / "models").is_dir() and "resume" not in read_options(RunFolder(run, "train").text("train")):
        raise InputError(f"{run}: its version kept no state to resume from; choose another output")
    return False


def _lengthen(run: Path, asked: Mapping[str, Any]) -> None:
    """Set a run's number of epochs where another is asked for, which is greater by then."""
    folder = RunFolder(run, "train")
    text = folder.text("train")
    if asked.get("epochs") not in (None, read_options(text)["epochs"]):
        write_text_atomic(folder.config("train"), set_options(text, {"epochs": asked["epochs"]}))


def _require_same_training(run: Path, datalist: str | os.PathLike[str], asked: Mapping[str, Any]) -> None:
    """Check that a command names the data and the options that a run was made with, or more epochs.

    Raises:
        InputError: another datalist, fewer epochs, or another option of another value.
    """
    text = RunFolder(run, "train").text("train")
    options = read_options(text)
    for name, value in given_values(text, load_datalist(datalist).path, asked).items():
        option, dotted, entry = name.partition(".")
        have = options.get(option)
        if dotted:  # an entry of an option that is a mapping, or null
            have = (have or {}).get(entry)
        if name == "epochs" and value > have:
            continue
        if have != value:
            what = "--data" if name == "datalist" else f"--set {name}"
            raise InputError(f"{what}: {value!r}, but {run.name} was started with {have!r}; resume it with its own")
