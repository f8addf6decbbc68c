"""The weights of the best validation, written whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from ragsam.files import atomic_write
from ragsam.networks.checkpoints import save_weights
from ragsam.networks.segmenter import Segmenter

logger = logging.getLogger(__name__)


class BestWeights:
    """Keeps the weights of the best validation as `model.safetensors`, and the same as `model.pt` for MONAI's tools.

    Weights and scores are the same in all processes; the first one writes.

    Args:
        path: the safetensors file; `model.pt` is written beside it.
        metadata: kept in the file beside what the network says of itself.
        metric: name of the key metric in the evaluator.
        tolerance: a later validation this close to the best replaces it: so small a difference is noise on a few
            patients, and the learning rate has fallen since.
    """

    def __init__(
        self,
        network: Segmenter,
        path: str | os.PathLike[str],
        metadata: dict[str, Any],
        *,
        metric: str,
        tolerance: float = 0.002,
    ) -> None:
        self.network = network
        self.path = Path(path)
        self.metadata = metadata
        self.metric = metric
        self.tolerance = tolerance

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator, whose state keeps the best score."""
        engine.state.best_kept = float("-inf")
        engine.state_dict_user_keys.append("best_kept")
        engine.add_event_handler(Events.COMPLETED, self.keep_if_better)

    def keep_if_better(self, engine: Engine) -> None:
        """Write the weights if the metric is within the tolerance of the best so far."""
        value = float(engine.state.metrics[self.metric])
        best = engine.state.best_kept
        if not value >= best - self.tolerance:  # nan is no score
            return
        engine.state.best_kept = max(best, value)
        if idist.get_rank() > 0:
            return
        state = self.network.trainable_state()
        about = {**self.network.about, **self.metadata, self.metric: round(value, 6)}
        save_weights(self.path, state, about)
        with atomic_write(self.path.with_suffix(".pt")) as temporary:
            torch.save(state, temporary)
        logger.info("%s %.4f is the best so far, or as good: weights kept", self.metric, value)
