"""A run's log: one row a validation, as CSV, with the time that training alone has taken."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from ragsam.console.memory import peak_memory
from ragsam.files import write_text_atomic
from ragsam.training.organ_dice import OrganDice

COLUMNS = ("epoch", "step", "train_seconds", "loss", "score", "learning_rate", "slices_per_second", "memory_gb")
_NOTHING: dict[str, Any] = {"seconds": 0.0, "slices": 0, "steps": 0, "sums": {}}


class History:
    """Logs loss, time and score. It stands before the handler that validates, so that validation does not count.

    A row has `COLUMNS`, the loss's parts as `loss_NAME` and each organ's Dice as `dice_NAME`, empty where the organ did
    not occur. Losses are means since the row before. Memory is the peak so far, of the GPU where there is one.

    Args:
        path: the CSV file, rewritten whole at every row.
        validator: the evaluator whose key metric is the score.
        optimizer: tells the learning rate.
        loss: tells its parts, as `parts` after each step.
        dice: tells each organ's Dice.
        organs: their names.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        validator: Engine,
        *,
        optimizer: Optimizer | None = None,
        loss: nn.Module | None = None,
        dice: OrganDice | None = None,
        organs: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self.validator = validator
        self.optimizer = optimizer
        self.loss = loss
        self.dice = dice
        self.organs = list(organs)
        self._trainer: Engine | None = None
        self._since = 0.0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows so far."""
        return self._trainer.state.history["rows"]

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, in whose state the rows are kept, and with the evaluator to know its score."""
        self._trainer = engine
        engine.state.history = {"rows": [], "seconds": 0.0, "since": {**_NOTHING, "sums": {}}}
        engine.state_dict_user_keys.append("history")
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)
        self.validator.add_event_handler(Events.COMPLETED, self._write)

    def _begin(self, engine: Engine) -> None:
        self._since = time.monotonic()

    def _count(self, engine: Engine) -> None:
        since = engine.state.history["since"]
        parts = {f"loss_{name}": part for name, part in getattr(self.loss, "parts", {}).items()}
        for name, part in {"loss": engine.state.output["loss"], **parts}.items():
            since["sums"][name] = since["sums"].get(name, 0.0) + part.item()
        since["steps"] += 1
        since["slices"] += len(engine.state.batch["image"]) * idist.get_world_size()

    def _end(self, engine: Engine) -> None:
        history, passed = engine.state.history, time.monotonic() - self._since
        history["seconds"] += passed
        history["since"]["seconds"] += passed

    def _write(self, engine: Engine) -> None:
        history = self._trainer.state.history
        history["rows"].append(self._row(engine))
        history["since"] = {**_NOTHING, "sums": {}}
        if idist.get_rank() == 0:
            write_text_atomic(self.path, csv_text(history["rows"]))

    def _row(self, engine: Engine) -> dict[str, Any]:
        state, since = self._trainer.state, self._trainer.state.history["since"]
        process, gpu = peak_memory()
        means = {name: round(total / max(since["steps"], 1), 6) for name, total in since["sums"].items()}
        row = {
            "epoch": state.epoch,
            "step": state.iteration,
            "train_seconds": round(state.history["seconds"], 2),
            "loss": means.pop("loss", None),
            "score": round(float(engine.state.metrics[engine.state.key_metric_name]), 6),
            "learning_rate": self.optimizer.param_groups[0]["lr"] if self.optimizer else None,
            "slices_per_second": round(since["slices"] / since["seconds"], 2) if since["seconds"] else None,
            "memory_gb": round((gpu or process) / 1e9, 2),
        }
        found = self.dice.by_organ if self.dice else []
        organs = dict(zip((f"dice_{name}" for name in self.organs), found, strict=False))
        return {**row, **means, **{name: None if dice is None else round(dice, 6) for name, dice in organs.items()}}


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with every column that one of them has; what is None is left empty."""
    columns = dict.fromkeys(name for row in rows for name in row)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
