"""Early stopping: a training ends where validation has got no better for a while."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)


class EarlyStop:
    """Ends a training after a number of validations in a row that were no better than the best before them.

    How many there were is kept in the trainer's state, so that a training that is resumed counts on.

    Args:
        validator: the evaluator whose key metric is the score.
        patience: validations.
    """

    def __init__(self, validator: Engine, patience: int) -> None:
        self.validator = validator
        self.patience = patience
        self._trainer: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; after the handler that resumes, so that what had ended does not begin again."""
        self._trainer = engine
        engine.state.early_stop = {"best": float("-inf"), "stale": 0}
        engine.state_dict_user_keys.append("early_stop")
        engine.add_event_handler(Events.STARTED, self.stop_where_due)
        self.validator.add_event_handler(Events.COMPLETED, self.count)

    def count(self, engine: Engine) -> None:
        """Count a validation."""
        state, score = self._trainer.state.early_stop, float(engine.state.metrics[engine.state.key_metric_name])
        better = score > state["best"]  # nan is no better
        state["stale"] = 0 if better else state["stale"] + 1
        state["best"] = score if better else state["best"]
        self.stop_where_due(self._trainer)

    def stop_where_due(self, engine: Engine) -> None:
        """End the training where patience is over."""
        if engine.state.early_stop["stale"] >= self.patience:
            epoch = engine.state.epoch
            logger.info("train: no better for %d validations, stopped after epoch %d", self.patience, epoch)
            engine.terminate()
