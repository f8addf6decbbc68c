"""How far an engine is."""

from __future__ import annotations

import time

from ignite.engine import Engine, Events

from ragsam.console.durations import duration
from ragsam.console.reporter import Shown, begin


class Progress:
    """Shows how far an engine is: in a log by epochs for training, by volumes for the rest.

    Args:
        name: what the engine does, e.g. "train".
        loss: whether the engine's output has a loss to show.
    """

    def __init__(self, name: str, *, loss: bool = False) -> None:
        self.name = name
        self.loss = loss
        self._losses: list[float] = []
        self._start = 0.0
        self._before = 0
        self._shown: Shown | None = None

    def attach(self, engine: Engine) -> None:
        """Register with an engine."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_first)
        if self.loss:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        else:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._volume)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self._start = time.monotonic()
        self._losses = []
        self._shown = None

    def _begin_first(self, engine: Engine) -> None:
        """Begin with the epoch that comes first: of a resumed training it is a later one."""
        if self._shown is None:
            state = engine.state
            self._before = state.iteration
            total = state.epoch_length and state.epoch_length * state.max_epochs
            self._shown = begin(self.name, total, "step" if self.loss else "volume", state.iteration)

    def _volume(self, engine: Engine) -> None:
        passed = time.monotonic() - self._start
        done = engine.state.iteration
        line = f"{self.name}: volume {done} of {engine.state.epoch_length or 0}, {passed:.0f} s passed"
        self._shown.advance(done, line)

    def _step(self, engine: Engine) -> None:
        """Show the last loss, and the time until the last epoch's end."""
        state = engine.state
        loss = state.output["loss"].item()
        self._losses.append(loss)
        epoch = f"{state.epoch} of {state.max_epochs}"
        self._shown.advance(state.iteration, epoch=epoch, loss=f"{loss:.4f}", left=duration(self._left_s(engine)))

    def _epoch(self, engine: Engine) -> None:
        """Tell the epoch's mean loss."""
        state = engine.state
        passed = time.monotonic() - self._start
        loss = sum(self._losses) / max(len(self._losses), 1)
        self._losses = []
        epoch = f"epoch {state.epoch} of {state.max_epochs}"
        times = f"{passed:.0f} s passed, about {self._left_s(engine):.0f} s left"
        self._shown.advance(state.iteration, f"{self.name}: {epoch}, loss {loss:.4f}, {times}")

    def _left_s(self, engine: Engine) -> float:
        state = engine.state
        done = state.iteration - self._before
        to_do = state.max_epochs * state.epoch_length - state.iteration
        return (time.monotonic() - self._start) / done * to_do

    def _end(self, engine: Engine) -> None:
        if self._shown is not None:  # a training that was finished begins no epoch when it is resumed
            self._shown.end()
