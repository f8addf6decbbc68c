"""Validation at every n-th epoch, and always at the last."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler


class Validation(ValidationHandler):
    """MONAI's validation handler, which here always validates the last epoch too."""

    def __init__(self, validator: Evaluator, interval: int) -> None:
        super().__init__(interval, validator)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.validate_if_due)

    def validate_if_due(self, engine: Engine) -> None:
        """Validate if the epoch is an n-th one or the last."""
        epoch = engine.state.epoch
        if epoch % self.interval == 0 or epoch == engine.state.max_epochs:
            self(engine)
