"""A run's network, as its weights file says what it was made for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.networks import Segmenter
from ragsam.networks.bases import base_file
from ragsam.networks.checkpoints import load_metadata
from ragsam.runs.network_config import described_options, input_channels, network_options
from ragsam.runs.run import RunFolder
from ragsam.runs.weights import WeightsLoader, require_made_for
from ragsam.transforms.layout import DEFAULT_LAYOUT


def network_of_weights(
    weights: str | os.PathLike[str] | None,
    *,
    num_classes: int,
    preparation: Mapping[str, Any],
    untrained: Mapping[str, Any],
    base: str | os.PathLike[str] | None = None,
    prompts: str | None = None,
) -> Segmenter:
    """Return the network that a weights file was made for, its weights not yet in it.

    Args:
        weights: the file. Before it exists, the network is that of `untrained`.
        num_classes: organs, without background.
        preparation: of the slices, as the config has it: image_size, slice_axis, ...
        untrained: options of `Segmenter`.
        base: SAM state dict that the weights were made on.
        prompts: instead of what the weights have.

    Raises:
        InputError: weights made for other slices or organs, or base weights that cannot be read or do not fit.
    """
    options = {"image_size": preparation["image_size"], **untrained}
    if weights is not None and Path(weights).is_file():
        about = load_metadata(weights)
        said = {name: untrained[name] for name in ("normalisation",) if name in untrained}
        own = {"slice_layout": DEFAULT_LAYOUT, **preparation, **said, "num_classes": num_classes}
        require_made_for(Path(weights), about, own)
        options = described_options(about)
    if prompts is not None:
        options["prompts"] = prompts
    return Segmenter(num_classes, base=base, **options)


def fusion_of_weights(weights: str | os.PathLike[str] | None, *, untrained: Mapping[str, Any]) -> str | None:
    """Return what steers the network of a weights file; the network is not built.

    Args:
        weights, untrained: see `network_of_weights`.
    """
    if weights is None or not Path(weights).is_file():
        return untrained["fusion"]
    return load_metadata(weights).get("fusion")


def trained_network(run: str | os.PathLike[str], *, prompts: str | None = None) -> tuple[Segmenter, dict[str, Any]]:
    """Return a run's network with its weights, and what the weights file says of it. No config is run.

    Args:
        prompts: instead of what the weights have.

    Raises:
        InputError: no trained run, or weights that were made for something else, or on other base weights.
    """
    folder = RunFolder(run)
    about = load_metadata(folder.weights)
    base = network_options(folder.text("inference"), folder.card.num_classes).get("base")
    options = described_options(about)
    if prompts is not None:
        options["prompts"] = prompts
    network = Segmenter(folder.card.num_classes, base=base, **options)
    WeightsLoader(network, folder.weights).load()
    return network, about


def run_channels(run: str | os.PathLike[str]) -> int:
    """Return how many channels a run's slices have."""
    return input_channels(RunFolder(run).text("inference"))


def weight_files(run: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a run's weights and of its base weights."""
    folder = RunFolder(run)
    base = folder.content("inference").get("base")
    return [*folder.weights.parent.glob("*"), *([base_file(base)] if isinstance(base, str) else [])]
