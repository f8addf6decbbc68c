"""A run's network with its weights; no config is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ragsam.data.cards.load import load_card
from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_weights
from ragsam.runs.network_config import input_channels, network_options
from ragsam.runs.weights import WeightsLoader


def trained_network(run: str | os.PathLike[str]) -> tuple[Segmenter, dict[str, Any]]:
    """Return a run's network with its weights, and what the weights file says of it. No config is run.

    Raises:
        InputError: no trained run, or other base weights than it was trained on.
    """
    text, weights = _config(run).read_text(encoding="utf-8"), Path(run) / "models" / "model.safetensors"
    card = load_card(Path(run) / "configs" / "card.yaml")
    network = Segmenter(**network_options(text, card.num_classes))
    WeightsLoader(network, weights).load()
    return network, load_weights(weights)[1]


def run_channels(run: str | os.PathLike[str]) -> int:
    """Return how many channels a run's slices have."""
    return input_channels(_config(run).read_text(encoding="utf-8"))


def _config(run: str | os.PathLike[str]) -> Path:
    config = Path(run) / "configs" / "inference.yaml"
    if not config.is_file():
        raise InputError(f"{run}: not a run (no configs/inference.yaml); make one with `ragsam train`")
    return config
