"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

from ragsam.console.durations import duration

logger = logging.getLogger(__name__)


class Progress:
    """Shows how far an engine is.

    On a terminal: a bar with the time left. Elsewhere: a line an epoch for training, a line a volume for the rest.

    Args:
        name: what the engine does, e.g. "train".
        loss: whether the engine's output has a loss to show.
    """

    def __init__(self, name: str, *, loss: bool = False) -> None:
        self.name = name
        self.loss = loss
        self._losses: list[float] = []
        self._start = 0.0
        self._first = 0

    def attach(self, engine: Engine) -> None:
        """Register with an engine."""
        if sys.stderr.isatty():
            bar = ProgressBar(desc=self.name)
            bar.attach(engine, output_transform=(lambda output: self._shown(engine, output)) if self.loss else None)
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._note_first)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED if self.loss else Events.ITERATION_COMPLETED, self._line)

    def _shown(self, engine: Engine, output: dict[str, Any]) -> dict[str, Any]:
        """Return what stands beside the bar of an epoch: the last loss, and the time until the last epoch's end."""
        state = engine.state
        done = state.iteration - (self._first - 1) * state.epoch_length
        left = (time.monotonic() - self._start) / done * (state.max_epochs * state.epoch_length - state.iteration)
        return {"loss": output["loss"].item(), "left": duration(left)}

    def _begin(self, engine: Engine) -> None:
        self._start, self._losses, self._first = time.monotonic(), [], 0

    def _note_first(self, engine: Engine) -> None:
        """Note the epoch that comes first: of a resumed training it is a later one."""
        self._first = self._first or engine.state.epoch

    def _count(self, engine: Engine) -> None:
        if self.loss:
            self._losses.append(engine.state.output["loss"].item())

    def _line(self, engine: Engine) -> None:
        passed, state = time.monotonic() - self._start, engine.state
        if self.loss:
            done, of = state.epoch, state.max_epochs
            loss = sum(self._losses) / max(len(self._losses), 1)
            self._losses = []
            left = passed / (done - self._first + 1) * (of - done)
            line = "%s: epoch %d of %d, loss %.4f, %.0f s passed, about %.0f s left"
            logger.info(line, self.name, done, of, loss, passed, left)
        else:
            done, of = state.iteration, state.epoch_length or 0
            logger.info("%s: volume %d of %d, %.0f s passed", self.name, done, of, passed)
