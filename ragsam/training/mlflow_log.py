"""A training in MLflow: every step's loss, and the rows of the log."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ragsam.errors import InputError

logger = logging.getLogger(__name__)

EXPERIMENT = "ragsam"


class MLflowLog:
    """Sends a training to MLflow; attached after the handler that logs.

    A resumed training continues the unfinished MLflow run of its folder's name. Where MLflow can no longer be reached
    the training continues without it and warns once.

    Args:
        tracking_uri: of a server, or `sqlite:///FILE`.
        run: the run's folder, whose name MLflow's run takes; nothing else of it is sent.

    Raises:
        InputError: at the start, where MLflow is not installed or cannot be reached.
    """

    def __init__(self, tracking_uri: str, run: str | os.PathLike[str], validator: Engine) -> None:
        self.tracking_uri = tracking_uri
        self.run_name = Path(run).absolute().name
        self.validator = validator
        self._trainer: Engine | None = None
        self._handler: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer and the evaluator; only the first process sends."""
        if idist.get_rank() > 0:
            return
        self._trainer = engine
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.send_loss)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        self.validator.add_event_handler(Events.COMPLETED, self.send_row)

    def start(self, engine: Engine) -> None:
        """Start an MLflow run, or find the one to continue."""
        if importlib.util.find_spec("mlflow") is None:
            raise InputError("mlflow: not installed; install the extra `mlflow`, or leave --set mlflow out")
        from monai.handlers import MLFlowHandler

        names = {"experiment_name": EXPERIMENT, "run_name": self.run_name}
        try:
            self._handler = MLFlowHandler(self.tracking_uri, iteration_log=False, epoch_log=False, **names)
            self._handler.start(engine)
        except Exception as error:
            reason = _reason(error)
            raise InputError(f"mlflow: {self.tracking_uri} cannot be used ({reason}); check --set mlflow") from error

    def send_loss(self, engine: Engine) -> None:
        """Send a step's loss."""
        self._send({"step/loss": engine.state.output["loss"].item()}, engine.state.iteration)

    def send_row(self, engine: Engine) -> None:
        """Send the log's row of a validation."""
        row = dict(self._trainer.state.history["rows"][-1])
        step = row.pop("step")
        self._send(row, step)

    def finish(self, engine: Engine) -> None:
        """Mark MLflow's run as finished."""
        with self._reachable():
            if self._handler is not None:
                self._handler.close()

    def _send(self, metrics: Mapping[str, float | None], step: int) -> None:
        if self._handler is None:
            return
        run_id = self._handler.cur_run.info.run_id
        with self._reachable():
            for name, value in metrics.items():
                if value is not None:
                    self._handler.client.log_metric(run_id, name, float(value), step=step)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Send nothing more after an error."""
        try:
            yield
        except Exception as error:
            logger.warning("mlflow: nothing more is sent (%s)", _reason(error))
            self._handler = None


def _reason(error: Exception) -> str:
    """Return what an error says, in a line."""
    return " ".join(str(error).split())[:200]
