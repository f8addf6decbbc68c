"""A guard over a training: it stops at a loss that is no number or explodes, and says where memory ran out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from ragsam.errors import InputError

_FIRST_STEPS = 20
_MOST_CASES = 8


class LossGuard:
    """Stops a training before a batch of which the loss is nan, infinite or far above the first ones moves any weight.

    What was kept after the last epoch stays as it is. Where memory runs out, the error names what would take less.

    Args:
        factor: how many times the mean of the first 20 losses, or 1 where that is more, a loss may be.

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
            self._stop(engine, f"the loss is {loss}")
        if len(self._first) < _FIRST_STEPS:
            self._first.append(loss)
        usual = sum(self._first) / len(self._first)
        if len(self._first) == _FIRST_STEPS and loss > self.factor * max(usual, 1.0):
            self._stop(engine, f"the loss is {loss:.3g}, at first it was {usual:.3g}")

    def explain(self, engine: Engine, error: BaseException) -> None:
        """Say what to do where memory ran out, and pass every other error on."""
        if isinstance(error, torch.OutOfMemoryError):
            image = engine.state.batch["image"]
            raise InputError(
                f"training: the GPU's memory does not hold a batch of {len(image)} slices of {image.shape[-1]} pixels; "
                "lower --set batch_size, and raise accumulation_steps for it, or take --recipe low_memory"
            ) from error
        raise error

    @staticmethod
    def _stop(engine: Engine, what: str) -> None:
        state = engine.state
        kept = f"what was kept after epoch {state.epoch - 1} stays" if state.epoch > 1 else "nothing was learnt yet"
        raise InputError(
            f"training: {what} in epoch {state.epoch}, step {state.iteration}, of {batch_text(state.batch)}; lower "
            f"--set learning_rate, or look at these slices ({kept})"
        )


def batch_text(batch: Mapping[str, Any]) -> str:
    """Return the cases of a batch with their slices: `img0001 (slices 3, 12), img0002 (slice 7)`."""
    slices: dict[str, set[int]] = {}
    for case, number in zip(batch["case"], batch["slice"], strict=True):
        slices.setdefault(case, set()).add(int(number))
    texts = [
        f"{case} (slice{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))})"
        for case, numbers in sorted(slices.items())
    ]
    more = [f"{len(texts) - _MOST_CASES} more cases"] if len(texts) > _MOST_CASES else []
    return ", ".join(texts[:_MOST_CASES] + more)
