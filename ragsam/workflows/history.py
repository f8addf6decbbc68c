"""A run's log: one row a validation, as CSV, with the time that training alone has taken."""

from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path

from ignite.engine import Engine, Events

from ragsam.files import write_text_atomic

COLUMNS = ("epoch", "step", "train_seconds", "loss", "score")


class History:
    """Logs loss, time and score. It stands before the handler that validates, so that validation does not count.

    Args:
        path: the CSV file, rewritten whole at every row.
        validator: the evaluator whose key metric is the score.
    """

    def __init__(self, path: str | os.PathLike[str], validator: Engine) -> None:
        self.path = Path(path)
        self.validator = validator
        self._trainer: Engine | None = None
        self._since = 0.0

    @property
    def rows(self) -> list[dict[str, float]]:
        """The rows so far."""
        return self._trainer.state.history["rows"]

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, in whose state the rows are kept, and with the evaluator to know its score."""
        self._trainer = engine
        engine.state.history = {"rows": [], "seconds": 0.0, "losses": []}
        engine.state_dict_user_keys.append("history")
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)
        self.validator.add_event_handler(Events.COMPLETED, self._write)

    def _begin(self, engine: Engine) -> None:
        self._since = time.monotonic()

    def _count(self, engine: Engine) -> None:
        engine.state.history["losses"].append(engine.state.output["loss"].item())

    def _end(self, engine: Engine) -> None:
        engine.state.history["seconds"] += time.monotonic() - self._since

    def _write(self, engine: Engine) -> None:
        state = self._trainer.state
        seconds, losses = state.history["seconds"], state.history["losses"]
        loss = sum(losses) / max(len(losses), 1)
        state.history["losses"] = []
        score = engine.state.metrics[engine.state.key_metric_name]
        row = (state.epoch, state.iteration, round(seconds, 2), round(loss, 6), round(float(score), 6))
        self.rows.append(dict(zip(COLUMNS, row, strict=True)))
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text_atomic(self.path, table.getvalue())
