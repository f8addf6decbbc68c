"""A training tried before it is begun: a few batches through everything, and what the whole will take."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ragsam.console.durations import duration
from ragsam.console.library_warnings import told_once
from ragsam.console.memory import peak_memory
from ragsam.errors import InputError
from ragsam.io.read_volume import open_volume
from ragsam.runs.run import RunFolder, bad_input
from ragsam.runs.templates import make_run, require_free
from ragsam.training.disk_space import free_bytes
from ragsam.training.frozen_encoder import FrozenEncoder, require_epoch
from ragsam.training.vote_weight import VoteWeight

STEPS = 4  # the first warms up, the others are timed


@dataclass(frozen=True)
class Stage:
    """Epochs of a training whose steps are alike.

    Attributes:
        first_epoch: counted from 1.
        steps: how many.
        ready_s: until the first of them: files checked and read, the bank built.
        step_s: for a step, without what a frozen encoder encodes.
    """

    first_epoch: int
    steps: int
    ready_s: float
    step_s: float


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training takes, as far as a few of its steps can tell.

    Attributes:
        batch_size, validations, volumes: slices a step, and how many there are of the others.
        stages: in their order; two where the encoder is frozen later.
        validation_s, keep_s: for a validation, the choice of the vote's weight among it, and for what is kept after an
            epoch.
        encodings, encode_s: how many slices are encoded for a frozen encoder at most, and what each takes.
        total_s: for all of it.
        memory_bytes, gpu_bytes: the process's peak, with all embeddings that are kept, and the GPU's; 0 without one.
        disk_bytes, free_bytes: what is written at most, old and new at once, and what is free where it is written.
    """

    batch_size: int
    validations: int
    volumes: int
    stages: tuple[Stage, ...]
    validation_s: float
    keep_s: float
    encodings: int
    encode_s: float
    total_s: float
    memory_bytes: int
    gpu_bytes: int
    disk_bytes: int
    free_bytes: int


class _Clock:
    """Notes when what happens, and the ends of steps on a clock that stands still while a frozen encoder is asked."""

    def __init__(self, trainer: Engine, validator: Engine, frozen: FrozenEncoder | None, begin: float) -> None:
        self.steps: list[float] = []
        self.at = {"begin": begin}
        self.ready_s: list[float] = []
        self.frozen = frozen
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._first_batch)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._note, "begin")
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        validator.add_event_handler(Events.STARTED, self._note, "validation")
        validator.add_event_handler(Events.COMPLETED, self._note, "validated")
        trainer.add_event_handler(Events.COMPLETED, self._note, "end")

    def step_s(self, epoch: int) -> float:
        """Return the seconds of a step of the epoch that was tried as this one, counted from 0."""
        own = self.steps[epoch * STEPS :][:STEPS]
        return (own[-1] - own[0]) / (STEPS - 1)

    def _end_step(self, engine: Engine) -> None:
        self.steps.append(time.monotonic() - (self.frozen.seconds if self.frozen else 0.0))

    def _first_batch(self, engine: Engine) -> None:
        if len(self.ready_s) < engine.state.epoch:
            self.ready_s.append(time.monotonic() - self.at["begin"])

    def _note(self, engine: Engine, name: str) -> None:
        self.at[name] = time.monotonic()


@told_once()
def try_training(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
) -> TrainingEstimate:
    """Train for a few steps in a temporary folder, validate the largest volume, and estimate what the whole takes.

    Raises:
        InputError: whatever would stop the training: see `make_run`, a faulty case, too little memory or disk space.
    """
    require_free(Path(output))
    with tempfile.TemporaryDirectory(prefix="ragsam-check-") as folder:
        run = make_run(bundle, datalist, Path(folder) / "run", options)
        estimate = _try_run(run, Path(output))
    if estimate.free_bytes < estimate.disk_bytes:
        free, needed = (size / 1e6 for size in (estimate.free_bytes, estimate.disk_bytes))
        raise InputError(
            f"{output}: {free:.0f} MB are free, but the training needs about {needed:.0f}; free some space"
        )
    return estimate


def _try_run(run: Path, output: Path) -> TrainingEstimate:
    start = time.monotonic()
    folder = RunFolder(run, "train")
    plan = folder.parser("train")
    names = ("epochs", "validate_every", "steps_per_epoch", "batch_size")
    epochs, every, steps, batch_size = (plan.get_parsed_content(name) for name in names)
    frozen_from = plan.get_parsed_content("frozen_from")
    first_epochs, short = [1], {"steps_per_epoch": STEPS}
    if type(frozen_from) is int and frozen_from > 1:
        require_epoch(frozen_from, epochs)  # here, since fewer epochs are tried
        first_epochs.append(frozen_from)
        short["frozen_from"] = 2
    short |= {"epochs": len(first_epochs), "validate_every": len(first_epochs)}
    workflow = folder.workflow("train", **short)
    with bad_input():
        workflow.initialize()
        voxels = _leave_the_largest(workflow)
        frozen = next((item for item in workflow.train_handlers if isinstance(item, FrozenEncoder)), None)
        clock = _Clock(workflow.trainer, workflow.evaluator, frozen, start)
        workflow.run()
        workflow.finalize()
    validations = epochs // every + (epochs % every > 0)
    stages = []
    for index, (first, end) in enumerate(pairwise([*first_epochs, epochs + 1])):
        stages.append(Stage(first, (end - first) * steps, clock.ready_s[index], clock.step_s(index)))
    encodings, encode_s, kept_bytes = 0, 0.0, 0
    if frozen is not None and frozen.encoded:
        encode_s = frozen.seconds / frozen.encoded
        encodings, kept_bytes = frozen.expect((epochs - first_epochs[-1] + 1) * steps * batch_size)
    validation_s = (clock.at["validated"] - clock.at["validation"]) * sum(voxels) / max(voxels)
    validation_s += sum(item.seconds for item in workflow.val_handlers if isinstance(item, VoteWeight))
    keep_s = clock.at["end"] - clock.at["validated"]
    process, gpu = peak_memory()
    return TrainingEstimate(
        batch_size=batch_size,
        validations=validations,
        volumes=len(voxels),
        stages=tuple(stages),
        validation_s=validation_s,
        keep_s=keep_s,
        encodings=encodings,
        encode_s=encode_s,
        total_s=sum(stage.ready_s + stage.steps * stage.step_s for stage in stages)
        + encodings * encode_s
        + epochs * keep_s
        + validations * validation_s,
        memory_bytes=process + kept_bytes,
        gpu_bytes=gpu,
        disk_bytes=2 * sum(path.stat().st_size for path in run.rglob("*") if path.is_file()),
        free_bytes=free_bytes(output),
    )


def _leave_the_largest(workflow: Any) -> list[int]:
    """Leave the largest volume alone for validation; return the voxels of all."""
    volumes = workflow.val_dataset.data
    voxels = [prod(open_volume(case.image, case.case).shape) for case in volumes]
    volumes[:] = [volumes[voxels.index(max(voxels))]]
    workflow.evaluator.state.epoch_length = 1
    return voxels


def estimate_lines(estimate: TrainingEstimate) -> list[str]:
    """Return an estimate as lines for a person."""
    first = estimate.stages[0]
    speed = estimate.batch_size / first.step_s
    lines = [
        f"{STEPS} batches of {estimate.batch_size} slices and the largest validation volume went through everything",
        f"ready to train after {duration(first.ready_s)}",
        f"a step: {first.step_s:.2f} s, {speed:.0f} slices a second; {first.steps} steps",
    ]
    for stage in estimate.stages[1:]:
        lines.append(f"from epoch {stage.first_epoch} on: {stage.step_s:.2f} s; {stage.steps} steps")
    if estimate.encodings:
        encoding = duration(estimate.encodings * estimate.encode_s)
        lines.append(f"the frozen encoder: {encoding} for {estimate.encodings} slices at most")
    validation = duration(estimate.validation_s)
    lines.append(f"a validation: {validation} for {estimate.volumes} volumes; {estimate.validations} of them")
    memory = f"memory: {estimate.memory_bytes / 1e9:.1f} GB"
    if estimate.gpu_bytes:
        memory += f", the GPU's: {estimate.gpu_bytes / 1e9:.1f} GB"
    lines.append(memory)
    lines.append(f"disk: {estimate.disk_bytes / 1e6:.0f} MB, {estimate.free_bytes / 1e9:.1f} GB are free")
    lines.append(f"the whole training: about {duration(estimate.total_s)}")
    return lines
