"""What a run's metadata.json says beyond its template: data set and versions."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any

from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.io.documents import read_json

#: Keys of MONAI's own for the versions that a bundle was made with.
_VERSION_KEYS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}

_OBJECT = {"type": "object"}
_SCHEMA = {
    "type": "object",
    "required": ["network_data_format", "required_packages_version"],
    "properties": {
        "required_packages_version": _OBJECT,
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {
                "inputs": {"type": "object", "required": ["image"], "properties": {"image": _OBJECT}},
                "outputs": {"type": "object", "required": ["pred"], "properties": {"pred": _OBJECT}},
            },
        },
    },
}


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a bundle's metadata.json, of which is checked what is filled in here.

    Raises:
        InputError: no such file, or a field that is missing or wrong.
    """
    return read_json(path, _SCHEMA)


def fill_metadata(metadata: dict[str, Any], card: Card, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a bundle's metadata with the card's labels, source and licence, the slices' size, and the versions here.

    Args:
        metadata: of the template.
        card: of the data set.
        options: of the run's training.
    """
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    size = [options["image_size"]] * 2
    around = options["context_slices"]
    if around > 1:
        slices = {str(i): f"slice {offset:+d}" for i, offset in enumerate(range(-around, around + 1))}
        slices[str(around)] = "slice"
        image |= {"num_channels": len(slices), "channel_def": slices}
    image |= {"spatial_shape": size, "modality": card.modality}
    classes = {"0": "background"}
    for organ in card.organs:
        classes[str(organ.value)] = organ.name
    pred |= {"spatial_shape": size, "num_channels": len(classes), "channel_def": classes}
    source = f"{card.title}: {card.source} ({card.licence})"
    return {**metadata, "data_source": source, "eval_metrics": {}, **installed_versions(metadata)}


def installed_versions(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the versions that are installed, of MONAI's keys and of the packages that the metadata name."""
    versions: dict[str, Any] = {key: _version(name) for key, name in _VERSION_KEYS.items()}
    required = {name: _version(name) for name in metadata["required_packages_version"]}
    return {**versions, "required_packages_version": required}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise InputError(f"metadata.json: required_packages_version: {name!r} is not installed; take it out") from error
