"""`dataset.json` of the Decathlon and of nnU-Net: the cases it lists, and labels that must not contradict the card."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.data.cards.model import Card
from ragsam.data.preparation.files import Pair
from ragsam.errors import InputError
from ragsam.io.documents import read_json
from ragsam.io.volume_names import SUFFIXES, volume_name

DATASET = "dataset.json"


def check_dataset_json(source: Path, card: Card) -> None:
    """Refuse several channels, and labels that the card does not know or whose raw values it numbers otherwise."""
    content = _dataset(source)
    channels = content.get("channel_names") or content.get("modality")
    if isinstance(channels, Mapping) and len(channels) > 1:
        raise InputError(f"{DATASET}: {len(channels)} channels; volumes of one channel are read only")
    labels = content.get("labels")
    if not isinstance(labels, Mapping):
        return
    for name, value in labels.items():
        if str(name).isdecimal():  # Decathlon's way round, not nnU-Net's
            name, value = value, name
        if isinstance(name, str) and str(value).isdecimal() and int(value) > 0:
            _check_label(name, int(value), card)


def _check_label(name: str, value: int, card: Card) -> None:
    """Compare one label; names are free, but one of the card's own organs must have that organ's value."""
    raw_of = {organ.name: organ.raw_values for organ in card.organs}
    if value not in set(card.raw_ignored).union(*raw_of.values()):
        raise InputError(
            f"{DATASET}: label {value} ({name}) is not a raw value of card {card.name}; choose another card, or add "
            "raw_ignored to one of your own"
        )
    organ = re.sub("[^a-z0-9]+", "_", name.casefold()).strip("_")
    organ = name if name in raw_of else organ
    if value not in raw_of.get(organ, (value,)):
        numbers = ", ".join(map(str, raw_of[organ]))
        raise InputError(f"{DATASET}: {organ} is {value}, on card {card.name} {numbers}; choose another card")


def listed_pairs(source: Path) -> list[Pair]:
    """Return the training cases that the file lists, named after their images; none where it lists none.

    Raises:
        InputError: an entry that is no case, leads out of the folder, or names a file that is not there.
    """
    listed = _dataset(source).get("training")
    if not isinstance(listed, list):
        return []
    return [_listed_pair(entry, source) for entry in listed]


def _listed_pair(entry: Any, source: Path) -> Pair:
    paths = {}
    for kind in ("image", "label"):
        name = entry.get(kind) if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or name == "":
            raise InputError(f"{DATASET}: a training case without image or label; correct its list")
        paths[kind] = Path(os.path.normpath(source / name))
    if not all(path.is_relative_to(source) for path in paths.values()):
        raise InputError(f"{DATASET}: a training case outside the folder; correct its list")
    case = volume_name(paths["image"])
    if case is None:
        raise InputError(f"{DATASET}: a training case that is not a volume ({', '.join(SUFFIXES)}); correct its list")
    for kind, path in paths.items():
        if not path.is_file():
            raise InputError(f"{case}: its {kind} is in {DATASET}, but not in the folder; add it or mend the list")
    return Pair(case, **paths)


def _dataset(source: Path) -> Mapping[str, Any]:
    file = source / DATASET
    if not file.is_file():
        return {}
    content = read_json(file)
    if not isinstance(content, Mapping):
        raise InputError(f"{DATASET}: it must be an object with labels and training; mend or remove it")
    return content
