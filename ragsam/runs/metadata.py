"""What a run's metadata.json says beyond its template: data set and versions."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from ragsam.data.cards.load import Card

#: Keys of MONAI's own for the versions that a bundle was made with.
_VERSION_KEYS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}


def fill_metadata(metadata: dict[str, Any], card: Card, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a bundle's metadata with the card's labels, source and licence, the slices' size, and the versions here.

    Args:
        metadata: of the template.
        card: of the data set.
        options: of the run's training.
    """
    channels = {"0": "background", **{str(organ.value): organ.name for organ in card.organs}}
    formats = metadata["network_data_format"]
    shape = [options["image_size"]] * 2
    around = options["context_slices"]
    if around > 1:
        offsets = range(-around, around + 1)
        names = {str(i): f"slice {offset:+d}" if offset else "slice" for i, offset in enumerate(offsets)}
        formats["inputs"]["image"] |= {"num_channels": len(names), "channel_def": names}
    formats["inputs"]["image"] |= {"spatial_shape": shape, "modality": card.modality}
    formats["outputs"]["pred"] |= {"spatial_shape": shape, "num_channels": len(channels), "channel_def": channels}
    made = {"data_source": f"{card.title}: {card.source} ({card.licence})", "eval_metrics": {}}
    return {**metadata, **made, **_versions(metadata)}


def _versions(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions that are installed, of MONAI's keys and of the packages that the metadata name."""
    packages = {name: _version(name) for name in metadata["required_packages_version"]}
    return {**{key: _version(name) for key, name in _VERSION_KEYS.items()}, "required_packages_version": packages}


def _version(name: str) -> str:
    return importlib.metadata.version(name).partition("+")[0]
