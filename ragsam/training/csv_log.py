"""A run's log as CSV: one row per validation, with the time that training alone has taken."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping, Sequence
from itertools import chain
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
    """Logs loss, time and score; attached before the handler that validates, so that validation is not timed.

    A row has `COLUMNS`, the loss's parts as `loss_NAME` and each organ's Dice as `dice_NAME`, empty where the organ did
    not occur. Losses are means since the previous row. Memory is the peak so far, of the GPU if there is one.

    Args:
        path: the CSV file, rewritten whole at every row.
        validator: the evaluator whose key metric is the score.
        loss: has its `parts` after each step.
        organs: names, for the Dice.
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
        """Register with the trainer, whose state keeps the rows, and with the evaluator for its score."""
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
        losses = {"loss": engine.state.output["loss"]}
        for name, part in getattr(self.loss, "parts", {}).items():
            losses[f"loss_{name}"] = part
        sums = since["sums"]
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + loss.item()
        since["steps"] += 1
        since["slices"] += len(engine.state.batch["image"]) * idist.get_world_size()

    def _end(self, engine: Engine) -> None:
        history = engine.state.history
        passed = time.monotonic() - self._since
        history["seconds"] += passed
        history["since"]["seconds"] += passed

    def _write(self, engine: Engine) -> None:
        history = self._trainer.state.history
        history["rows"].append(self._row(engine))
        history["since"] = {**_NOTHING, "sums": {}}
        if idist.get_rank() == 0:
            write_text_atomic(self.path, csv_text(history["rows"]))

    def _row(self, engine: Engine) -> dict[str, Any]:
        state = self._trainer.state
        since = state.history["since"]
        score = float(engine.state.metrics[engine.state.key_metric_name])
        process_bytes, gpu_bytes = peak_memory()
        row = dict.fromkeys(COLUMNS)
        row["epoch"] = state.epoch
        row["step"] = state.iteration
        row["train_seconds"] = round(state.history["seconds"], 2)
        row["score"] = round(score, 6)
        row["memory_gb"] = round((gpu_bytes or process_bytes) / 1e9, 2)
        if self.optimizer is not None:
            row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if since["seconds"]:
            row["slices_per_second"] = round(since["slices"] / since["seconds"], 2)
        for name, total in since["sums"].items():
            row[name] = round(total / since["steps"], 6)
        if self.dice is not None:
            for name, dice in zip(self.organs, self.dice.by_organ, strict=False):
                row[f"dice_{name}"] = None if dice is None else round(dice, 6)
        return row


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with the columns of all of them; None is left empty."""
    columns = dict.fromkeys(chain.from_iterable(rows))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
