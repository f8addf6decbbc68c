"""Whether a bundle's metadata.json is whole, and says of labels and slices what the card and the configs say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

from ragsam.data.cards.load import Card
from ragsam.io.documents import read_json
from ragsam.runs.network_config import channels_of

#: By MONAI's bundle specification and its model zoo's habit; the zoo's own file is a download.
SCHEMA = Path(__file__).parent / "metadata_schema.json"
_NAME = "configs/metadata.json"


def schema_faults(metadata: Any) -> list[str]:
    """Return a line for everything in which metadata break the schema, and for a version that has no changelog."""
    validator = jsonschema.Draft202012Validator(read_json(SCHEMA))
    faults = []
    for error in sorted(validator.iter_errors(metadata), key=lambda error: error.json_path):
        place = error.json_path.removeprefix("$").lstrip(".")
        faults.append(f"{_NAME}: {place or 'top'}: {' '.join(error.message.split())[:120]}")
    if not faults and metadata["version"] not in metadata["changelog"]:
        faults.append(f"{_NAME}: version {metadata['version']} is not in the changelog; add it")
    return faults


def label_faults(metadata: Mapping[str, Any], card: Card, config: Mapping[str, Any]) -> list[str]:
    """Compare the labels with the card, in order, and the tensors' sizes with a config.

    Args:
        metadata: that keep the schema.
        card: of the bundle.
        config: `inference.yaml`, read as data.
    """
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    names = ["background", *card.labels]
    size = [config.get("image_size")] * 2
    wanted = {
        "pred.channel_def": (pred["channel_def"], {str(index): name for index, name in enumerate(names)}),
        "pred.num_channels": (pred["num_channels"], len(names)),
        "pred.spatial_shape": (pred["spatial_shape"], size),
        "image.spatial_shape": (image["spatial_shape"], size),
        "image.num_channels": (image["num_channels"], channels_of(config)),
    }
    return [
        f"{_NAME}: {key} is {_shown(found)}, the card and the config have {_shown(right)}"
        for key, (found, right) in wanted.items()
        if found != right
    ]


def _shown(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
