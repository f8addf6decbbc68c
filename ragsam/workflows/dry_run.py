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
from ragsam.workflows.frozen_encoder import FrozenEncoder
from ragsam.workflows.memory import peak_memory

STEPS = 4  # the first warms up, the others are timed


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training takes, as far as a few of its steps can tell.

    Attributes:
        batch_size, steps, validations, volumes: slices a step, and how many there are of the others.
        ready_s: until the first step: files checked and read, the bank built.
        step_s, volume_s, keep_s: for a step, for a validation volume on average, for what is kept after an epoch.
        frozen_steps, frozen_step_s: how many of the steps have a frozen encoder, and what each takes beside encoding.
        encodings, encode_s: how many slices are encoded for these at most, and what each takes.
        total_s: for all of it.
        memory_bytes, gpu_bytes: the process's peak, with all embeddings that are kept, and the GPU's; 0 without one.
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
    frozen_steps: int
    frozen_step_s: float
    encodings: int
    encode_s: float
    total_s: float
    memory_bytes: int
    gpu_bytes: int
    disk_bytes: int
    free_bytes: int


class _Clock:
    """Notes when what happens, and the ends of steps on a clock that stands still while a frozen encoder is asked."""

    def __init__(self, trainer: Engine, validator: Engine, frozen: FrozenEncoder | None) -> None:
        self.steps: list[float] = []
        self.at: dict[str, float] = {}
        self.frozen = frozen
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._note, "first batch", first=True)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        validator.add_event_handler(Events.STARTED, self._note, "validation")
        validator.add_event_handler(Events.COMPLETED, self._note, "validated")
        trainer.add_event_handler(Events.COMPLETED, self._note, "end")

    def step_s(self, epoch: int) -> float:
        """Return the seconds of a step of the epoch that was tried as the first, 0, or the last, -1."""
        last = self.steps[epoch * STEPS :][:STEPS]
        return (last[-1] - last[0]) / (STEPS - 1)

    def _end_step(self, engine: Engine) -> None:
        self.steps.append(time.monotonic() - (self.frozen.seconds if self.frozen else 0.0))

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
    plan = config_workflow(run, "train").parser
    names = ("epochs", "validate_every", "steps_per_epoch", "batch_size")
    epochs, every, steps, batch_size = (plan.get_parsed_content(name) for name in names)
    frozen_from = plan.get("frozen_from")
    short = {"epochs": 1, "steps_per_epoch": STEPS, "validate_every": 1}
    if type(frozen_from) is int and 1 < frozen_from <= epochs:
        short |= {"epochs": 2, "validate_every": 2, "frozen_from": 2}
    workflow = config_workflow(run, "train", **short)
    try:
        workflow.initialize()
        volumes = workflow.val_dataset.data
        voxels = [_voxels(case) for case in volumes]
        largest = max(range(len(volumes)), key=voxels.__getitem__)
        volumes[:] = [volumes[largest]]
        workflow.evaluator.state.epoch_length = 1
        frozen = next((item for item in workflow.train_handlers if isinstance(item, FrozenEncoder)), None)
        clock = _Clock(workflow.trainer, workflow.evaluator, frozen)
        workflow.run()
        workflow.finalize()
    except Exception as error:
        raise root_cause(error) from error
    validations = epochs // every + (epochs % every > 0)
    ready_s, step_s, frozen_step_s = clock.at["first batch"] - start, clock.step_s(0), clock.step_s(-1)
    frozen_steps = encodings = kept_bytes = 0
    encode_s = 0.0
    if frozen is not None and frozen.encoded:
        frozen_steps, encode_s = (epochs - frozen_from + 1) * steps, frozen.seconds / frozen.encoded
        encodings, kept_bytes = frozen.expect(frozen_steps * batch_size)
    volume_s = (clock.at["validated"] - clock.at["validation"]) * sum(voxels) / voxels[largest] / len(voxels)
    keep_s = clock.at["end"] - clock.at["validated"]
    process, gpu = peak_memory()
    return TrainingEstimate(
        batch_size=batch_size,
        steps=epochs * steps,
        validations=validations,
        volumes=len(voxels),
        ready_s=ready_s,
        step_s=step_s,
        volume_s=volume_s,
        keep_s=keep_s,
        frozen_steps=frozen_steps,
        frozen_step_s=frozen_step_s,
        encodings=encodings,
        encode_s=encode_s,
        total_s=ready_s
        + (epochs * steps - frozen_steps) * step_s
        + frozen_steps * frozen_step_s
        + encodings * encode_s
        + epochs * keep_s
        + validations * len(voxels) * volume_s,
        memory_bytes=process + kept_bytes,
        gpu_bytes=gpu,
        disk_bytes=2 * sum(path.stat().st_size for path in run.rglob("*") if path.is_file()),
        free_bytes=free_bytes(output),
    )


def _voxels(case: Case) -> int:
    return prod(open_volume(case.image, case.case).shape)


def estimate_lines(estimate: TrainingEstimate) -> list[str]:
    """Return an estimate as lines for a person."""
    e, frozen = estimate, []
    if e.frozen_steps:
        told = f"with a frozen encoder: {e.frozen_steps} of the steps, {e.frozen_step_s:.2f} s each"
        frozen = [f"{told}, and {duration(e.encodings * e.encode_s)} to encode {e.encodings} slices at most"]
    return [
        f"{STEPS} batches of {e.batch_size} slices and the largest validation volume went through everything",
        f"ready to train after {duration(e.ready_s)}",
        f"a step: {e.step_s:.2f} s, {e.batch_size / e.step_s:.0f} slices a second; {e.steps} steps",
        *frozen,
        f"a validation: {duration(e.volumes * e.volume_s)} for {e.volumes} volumes; {e.validations} of them",
        f"memory: {e.memory_bytes / 1e9:.1f} GB" + (f", the GPU's: {e.gpu_bytes / 1e9:.1f} GB" if e.gpu_bytes else ""),
        f"disk: {e.disk_bytes / 1e6:.0f} MB, {e.free_bytes / 1e9:.1f} GB are free",
        f"the whole training: about {duration(e.total_s)}",
    ]
