"""Early stopping: a training ends once validation has not improved for a while."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)


class EarlyStop:
    """Ends a training after a number of validations in a row without a better score.

    The score is the validator's key metric. The count is kept in the trainer's state, so that a resumed training
    continues it.
    """

    def __init__(self, validator: Engine, patience: int) -> None:
        self.validator = validator
        self.patience = patience
        self._trainer: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; after the handler that resumes, so that a stopped training does not start again."""
        self._trainer = engine
        engine.state.early_stop = {"best": float("-inf"), "stale": 0}
        engine.state_dict_user_keys.append("early_stop")
        engine.add_event_handler(Events.STARTED, self.stop_where_due)
        self.validator.add_event_handler(Events.COMPLETED, self.count)

    def count(self, engine: Engine) -> None:
        """Count a validation."""
        state = self._trainer.state.early_stop
        score = float(engine.state.metrics[engine.state.key_metric_name])
        if score > state["best"]:  # nan is no better
            state["best"] = score
            state["stale"] = 0
        else:
            state["stale"] += 1
        self.stop_where_due(self._trainer)

    def stop_where_due(self, engine: Engine) -> None:
        """End the training if the patience has run out."""
        if engine.state.early_stop["stale"] < self.patience:
            return
        epoch = engine.state.epoch
        logger.info("train: no better for %d validations, stopped after epoch %d", self.patience, epoch)
        engine.terminate()
