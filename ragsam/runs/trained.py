"""A run's network with its weights; no config is run."""

from __future__ import annotations

import os
from typing import Any

from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_weights
from ragsam.runs.network_config import input_channels, network_options
from ragsam.runs.run import RunFolder
from ragsam.runs.weights import WeightsLoader


def trained_network(run: str | os.PathLike[str]) -> tuple[Segmenter, dict[str, Any]]:
    """Return a run's network with its weights, and what the weights file says of it. No config is run.

    Raises:
        InputError: no trained run, or other base weights than it was trained on.
    """
    folder = RunFolder(run)
    network = Segmenter(**network_options(folder.text("inference"), folder.card.num_classes))
    WeightsLoader(network, folder.weights).load()
    return network, load_weights(folder.weights)[1]


def run_channels(run: str | os.PathLike[str]) -> int:
    """Return how many channels a run's slices have."""
    return input_channels(RunFolder(run).text("inference"))
