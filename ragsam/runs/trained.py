"""A run's network, as its weights file says what it was made for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_metadata
from ragsam.runs.network_config import described_options, input_channels, network_options
from ragsam.runs.run import RunFolder
from ragsam.runs.weights import WeightsLoader

#: What of the slices' preparation must be in segmenting as it was in training.
_PREPARED = ("image_size", "slice_axis", "context_slices", "context_distance_mm", "spacing_mm", "window")


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
        weights: the file. Where there is none yet, the network is that of `untrained`.
        num_classes: organs, without background.
        preparation: of the slices, as the config has it: image_size, slice_axis, ...
        untrained: options of `Segmenter`.
        base: SAM state dict that the weights were made on.
        prompts: in place of what the weights have.

    Raises:
        InputError: weights of another preparation, or base weights that cannot be read or do not fit.
    """
    options = {"image_size": preparation["image_size"], **untrained}
    if weights is not None and Path(weights).is_file():
        about = load_metadata(weights)
        _require_preparation(Path(weights), about, preparation)
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


def _require_preparation(weights: Path, about: Mapping[str, Any], preparation: Mapping[str, Any]) -> None:
    said = {**about, **(about.get("preparation") or {})}
    for name in _PREPARED:
        if name in said and said[name] != preparation[name]:
            made = f"made for slices with {name} {said[name]}"
            raise InputError(f"{weights.name}: {made}, the config has {preparation[name]}; leave it as in training")


def trained_network(run: str | os.PathLike[str]) -> tuple[Segmenter, dict[str, Any]]:
    """Return a run's network with its weights, and what the weights file says of it. No config is run.

    Raises:
        InputError: no trained run, or other base weights than it was trained on.
    """
    folder = RunFolder(run)
    about = load_metadata(folder.weights)
    base = network_options(folder.text("inference"), folder.card.num_classes).get("base")
    network = Segmenter(folder.card.num_classes, base=base, **described_options(about))
    WeightsLoader(network, folder.weights).load()
    return network, about


def run_channels(run: str | os.PathLike[str]) -> int:
    """Return how many channels a run's slices have."""
    return input_channels(RunFolder(run).text("inference"))


def weight_files(run: str | os.PathLike[str]) -> list[Path]:
    """Return the files of a run's weights and of its base weights."""
    folder = RunFolder(run)
    base = folder.content("inference").get("base")
    return [*folder.weights.parent.glob("*"), *([Path(base)] if isinstance(base, str) else [])]
