"""A run's weights, loaded when an engine starts."""

from __future__ import annotations

import os
from pathlib import Path

from ignite.engine import Engine, Events

from ragsam.errors import InputError
from ragsam.networks.checkpoints import load_weights
from ragsam.networks.segmenter import Segmenter


class WeightsLoader:
    """Loads a run's weights when an engine starts.

    Args:
        network: receives them.
        path: `model.safetensors` of a run.

    Raises:
        InputError: at the start, for weights that are missing, damaged, or made on other base weights.
    """

    def __init__(self, network: Segmenter, path: str | os.PathLike[str]) -> None:
        self.network = network
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Register with an engine."""
        engine.add_event_handler(Events.STARTED, self.load)

    def load(self, engine: Engine | None = None) -> None:
        """Read and load the weights."""
        state, metadata = load_weights(self.path)
        if metadata.get("base_sha256") != self.network.base_sha256:
            raise InputError(f"{self.path.name}: made on other base weights; set `base` to the ones it was trained on")
        self.network.load_trainable_state(state)
