"""A training in MLflow: every step's loss, and what the log has."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ragsam.errors import InputError

logger = logging.getLogger(__name__)

EXPERIMENT = "ragsam"


class MLflowLog:
    """Sends a training to MLflow; it stands after the handler that logs.

    A resumed training goes on with the run of its folder's name that is not finished. Where MLflow cannot be reached
    any more the training goes on without it, and says so once.

    Args:
        tracking_uri: of a server, or `sqlite:///FILE`.
        run: the run's folder, after which MLflow's run is named. Nothing else of it is sent.
        validator: the evaluator.

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
        """Register with the trainer and the evaluator; of several processes the first sends."""
        if idist.get_rank() > 0:
            return
        self._trainer = engine
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.send_loss)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        self.validator.add_event_handler(Events.COMPLETED, self.send_row)

    def start(self, engine: Engine) -> None:
        """Begin a run, or find the one to go on with."""
        if importlib.util.find_spec("mlflow") is None:
            raise InputError("mlflow: not installed; install the extra `mlflow`, or leave --set mlflow out")
        from monai.handlers import MLFlowHandler

        options = {"iteration_log": False, "epoch_log": False, "experiment_name": EXPERIMENT}
        try:
            self._handler = MLFlowHandler(self.tracking_uri, run_name=self.run_name, **options)
            self._handler.start(engine)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"mlflow: {self.tracking_uri} cannot be used ({reason}); check --set mlflow") from error

    def send_loss(self, engine: Engine) -> None:
        """Send a step's loss."""
        self._send({"step/loss": engine.state.output["loss"].item()}, engine.state.iteration)

    def send_row(self, engine: Engine) -> None:
        """Send what the log has of a validation."""
        row = dict(self._trainer.state.history["rows"][-1])
        step = row.pop("step")
        self._send({name: value for name, value in row.items() if value is not None}, step)

    def finish(self, engine: Engine) -> None:
        """Tell that the training has come to its end."""
        if self._handler is not None:
            self._try(self._handler.close)

    def _send(self, metrics: Mapping[str, float], step: int) -> None:
        if self._handler is None:
            return
        run_id = self._handler.cur_run.info.run_id
        for name, value in metrics.items():
            self._try(self._handler.client.log_metric, run_id, name, float(value), step=step)

    def _try(self, what: Any, *args: Any, **options: Any) -> None:
        if self._handler is None:
            return
        try:
            what(*args, **options)
        except Exception as error:
            logger.warning("mlflow: nothing more is sent (%s)", " ".join(str(error).split())[:200])
            self._handler = None
