"""A guard that stops a training whose loss explodes or is not finite, and explains where memory ran out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from ragsam.errors import InputError

_FIRST_STEPS = 20
_MOST_CASES = 8


class LossGuard:
    """Stops a training before a batch whose loss is nan, infinite or far above the first losses changes any weight.

    The checkpoint of the last epoch stays as it is. Where memory runs out, the error names what would take less.

    Args:
        factor: how many times the mean of the first 20 losses, or 1 where that is larger, a loss may be.

    Raises:
        InputError: in training, with the cases and slices of the batch.
    """

    def __init__(self, *, factor: float = 10.0) -> None:
        self.factor = factor
        self._first: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer of MONAI."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.check)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.explain)

    def check(self, engine: Engine) -> None:
        """Look at the loss of the batch at hand."""
        loss = engine.state.output["loss"].item()
        if not math.isfinite(loss):
            raise _unusable(engine, f"the loss is {loss}")
        if len(self._first) < _FIRST_STEPS:
            self._first.append(loss)
        usual = sum(self._first) / len(self._first)
        exploded = loss > self.factor * max(usual, 1.0)
        if exploded and len(self._first) == _FIRST_STEPS:
            raise _unusable(engine, f"the loss is {loss:.3g}, at first it was {usual:.3g}")

    def explain(self, engine: Engine, error: BaseException) -> None:
        """Say what to do where memory ran out, and pass every other error on."""
        if not isinstance(error, torch.OutOfMemoryError):
            raise error
        image = engine.state.batch["image"]
        raise InputError(
            f"training: the GPU's memory does not hold a batch of {len(image)} slices of {image.shape[-1]} pixels; "
            "lower --set batch_size, and raise accumulation_steps for it, or take --recipe low_memory"
        ) from error


def _unusable(engine: Engine, fault: str) -> InputError:
    """Return the error for the loss of the batch at hand."""
    state = engine.state
    kept = "nothing was learnt yet"
    if state.epoch > 1:
        kept = f"what was kept after epoch {state.epoch - 1} stays"
    return InputError(
        f"training: {fault} in epoch {state.epoch}, step {state.iteration}, of {batch_text(state.batch)}; lower "
        f"--set learning_rate, or check these slices ({kept})"
    )


def batch_text(batch: Mapping[str, Any]) -> str:
    """Return the cases of a batch with their slices: `img0001 (slices 3, 12), img0002 (slice 7)`."""
    slices = defaultdict(set)
    for case, number in zip(batch["case"], batch["slice"], strict=True):
        slices[case].add(int(number))
    texts = []
    for case, numbers in sorted(slices.items()):
        listed = ", ".join(map(str, sorted(numbers)))
        plural = "s" * (len(numbers) > 1)
        texts.append(f"{case} (slice{plural} {listed})")
    further = len(texts) - _MOST_CASES
    if further > 0:
        texts[_MOST_CASES:] = [f"{further} more cases"]
    return ", ".join(texts)
