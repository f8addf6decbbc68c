"""A training tried before it is begun: a few batches through everything, and what the whole will take."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.transforms.reading import open_volume
from ragsam.workflows.bundle import config_workflow, make_run, require_free, root_cause
from ragsam.workflows.disk_space import free_bytes
from ragsam.workflows.durations import duration
from ragsam.workflows.memory import peak_memory

STEPS = 4  # the first warms up, the others are timed


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training takes, as far as a few of its steps can tell.

    Attributes:
        batch_size, steps, validations, volumes: slices a step, and how many there are of the others.
        ready_s: until the first step: files checked and read, the bank built.
        step_s, volume_s, keep_s: for a step, for a validation volume on average, for what is kept after an epoch.
        total_s: for all of it.
        memory_bytes, gpu_bytes: the process's peak, and the GPU's; 0 without one.
        disk_bytes, free_bytes: what is written at most, old and new at once, and what is free where it is written.
    """

    batch_size: int
    steps: int
    validations: int
    volumes: int
    ready_s: float
    step_s: float
    volume_s: float
    keep_s: float
    total_s: float
    memory_bytes: int
    gpu_bytes: int
    disk_bytes: int
    free_bytes: int


class _Clock:
    """Notes when what happens."""

    def __init__(self, trainer: Engine, validator: Engine) -> None:
        self.steps: list[float] = []
        self.at: dict[str, float] = {}
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._note, "first batch", first=True)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self.steps.append(time.monotonic()))
        validator.add_event_handler(Events.STARTED, self._note, "validation")
        validator.add_event_handler(Events.COMPLETED, self._note, "validated")
        trainer.add_event_handler(Events.COMPLETED, self._note, "end")

    def _note(self, engine: Engine, name: str, *, first: bool = False) -> None:
        if not first or name not in self.at:
            self.at[name] = time.monotonic()


def try_training(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    knobs: Mapping[str, Any] | None = None,
) -> TrainingEstimate:
    """Train for a few steps in a temporary folder, validate the largest volume, and estimate what the whole takes.

    Raises:
        InputError: whatever would stop the training: see `make_run`, a faulty case, too little memory or disk space.
    """
    require_free(Path(output))
    with tempfile.TemporaryDirectory(prefix="ragsam-check-") as folder:
        run = make_run(bundle, datalist, Path(folder) / "run", knobs)
        estimate = _try_run(run, Path(output))
    if estimate.free_bytes < estimate.disk_bytes:
        free, needed = (size / 1e6 for size in (estimate.free_bytes, estimate.disk_bytes))
        raise InputError(f"{output}: {free:.0f} MB are free, the training needs about {needed:.0f}; free some space")
    return estimate


def _try_run(run: Path, output: Path) -> TrainingEstimate:
    start = time.monotonic()
    short = {"epochs": 1, "steps_per_epoch": STEPS, "validate_every": 1}
    workflow = config_workflow(run, "train", **short)
    plan = config_workflow(run, "train").parser
    try:
        workflow.initialize()
        volumes = workflow.val_dataset.data
        voxels = [_voxels(case) for case in volumes]
        largest = max(range(len(volumes)), key=voxels.__getitem__)
        volumes[:] = [volumes[largest]]
        workflow.evaluator.state.epoch_length = 1
        clock = _Clock(workflow.trainer, workflow.evaluator)
        workflow.run()
        workflow.finalize()
    except Exception as error:
        raise root_cause(error) from error
    epochs, every, steps = (plan.get_parsed_content(name) for name in ("epochs", "validate_every", "steps_per_epoch"))
    validations = epochs // every + (epochs % every > 0)
    ready_s, step_s = clock.at["first batch"] - start, (clock.steps[-1] - clock.steps[0]) / (STEPS - 1)
    volume_s = (clock.at["validated"] - clock.at["validation"]) * sum(voxels) / voxels[largest] / len(voxels)
    keep_s = clock.at["end"] - clock.at["validated"]
    process, gpu = peak_memory()
    return TrainingEstimate(
        batch_size=plan.get_parsed_content("batch_size"),
        steps=epochs * steps,
        validations=validations,
        volumes=len(voxels),
        ready_s=ready_s,
        step_s=step_s,
        volume_s=volume_s,
        keep_s=keep_s,
        total_s=ready_s + epochs * (steps * step_s + keep_s) + validations * len(voxels) * volume_s,
        memory_bytes=process,
        gpu_bytes=gpu,
        disk_bytes=2 * sum(path.stat().st_size for path in run.rglob("*") if path.is_file()),
        free_bytes=free_bytes(output),
    )


def _voxels(case: Case) -> int:
    return prod(open_volume(case.image, case.case).shape)


def estimate_lines(estimate: TrainingEstimate) -> list[str]:
    """Return an estimate as lines for a person."""
    e = estimate
    return [
        f"{STEPS} batches of {e.batch_size} slices and the largest validation volume went through everything",
        f"ready to train after {duration(e.ready_s)}",
        f"a step: {e.step_s:.2f} s, {e.batch_size / e.step_s:.0f} slices a second; {e.steps} steps",
        f"a validation: {duration(e.volumes * e.volume_s)} for {e.volumes} volumes; {e.validations} of them",
        f"memory: {e.memory_bytes / 1e9:.1f} GB" + (f", the GPU's: {e.gpu_bytes / 1e9:.1f} GB" if e.gpu_bytes else ""),
        f"disk: {e.disk_bytes / 1e6:.0f} MB, {e.free_bytes / 1e9:.1f} GB are free",
        f"the whole training: about {duration(e.total_s)}",
    ]
