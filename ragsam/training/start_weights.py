"""The handler that loads weights to start a training from."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events

from ragsam.networks.checkpoints import load_weights
from ragsam.networks.segmenter import Segmenter
from ragsam.networks.starting import load_start

logger = logging.getLogger(__name__)


class StartWeights:
    """Loads weights when a trainer starts, and reports what became of every key.

    Args:
        path: weights of `ragsam import`, or of another run.
        labels: names of the organs, in order: parts with an output per class are loaded only for the same organs.

    Raises:
        InputError: at the start, for weights that are damaged, made on another base, or do not fit.
    """

    def __init__(self, network: Segmenter, path: str | os.PathLike[str], labels: Sequence[str]) -> None:
        self.network = network
        self.path = Path(path)
        self.labels = list(labels)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; before the handlers that use the network's weights."""
        engine.add_event_handler(Events.STARTED, self.load)

    def load(self, engine: Engine | None = None) -> None:
        """Read and load the weights."""
        state, about = load_weights(self.path)
        report = load_start(self.network, state, about, self.labels)
        for line in report.lines():
            logger.info("start: %s", line)
