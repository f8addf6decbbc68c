"""When a trainer validates: at every n-th epoch, and always at the last."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler


class Validation(ValidationHandler):
    """MONAI's validation handler that never leaves the last epoch unvalidated.

    Args:
        validator: the evaluator to run.
        interval: epochs between validations.
    """

    def __init__(self, validator: Evaluator, interval: int) -> None:
        super().__init__(interval, validator)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""

        def due(engine: Engine, epoch: int) -> bool:
            return epoch % self.interval == 0 or epoch == engine.state.max_epochs

        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=due), self)
