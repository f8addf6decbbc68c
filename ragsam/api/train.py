"""Training: make a run and train it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.api.resume import can_resume, require_same_training
from ragsam.api.run import Run
from ragsam.errors import InputError
from ragsam.report.training import CURVES_NAME, read_log, write_curves
from ragsam.runs.recipes import recipe as named_recipe
from ragsam.runs.run import WEIGHTS, run_config
from ragsam.runs.templates import make_run
from ragsam.training.checkpoints import remove_drafts


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
        datalist: the data.
        output: the run's folder, which is made.
        options: values by the options' names, see docs/options.md.
        recipe: options by a name, see docs/training.md; `options` go before.
        resume: go on where a training of `output` was stopped, or begin.

    Raises:
        InputError: as `train_run`.
    """
    chosen = named_recipe(recipe) if recipe else {}
    return Run(train_run(bundle, datalist, output, {**chosen, **(options or {})}, resume=resume))


def train_run(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
) -> Path:
    """Make a run and train it; see `make_run`. Where bad input stops it before there are weights, no run is left.

    Args:
        resume: go on with the run of `output` after the last epoch that it finished; where there is none, begin.

    Raises:
        InputError: as `make_run`, a faulty case, or a run that was begun with other data or options.
    """
    run = Path(output)
    again, resume = resume, resume and can_resume(run)
    if resume:
        require_same_training(run, datalist, options or {})
        remove_drafts(run)
    else:
        make_run(bundle, datalist, output, options, again=again)
    try:
        run_config(run, "train", resume=resume)
    except InputError:
        if not (run / WEIGHTS).exists() and not can_resume(run):
            shutil.rmtree(run)
        raise
    write_curves(read_log(run / "log.csv"), run / CURVES_NAME)
    return run
