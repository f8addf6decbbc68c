"""`dataset.json` of the Decathlon and of nnU-Net: the cases it lists, and labels that must not contradict the card."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.data.cards.model import Card
from ragsam.data.preparation.files import SUFFIXES, Pair, name_of
from ragsam.errors import InputError
from ragsam.files import read_json

DATASET = "dataset.json"


def check_dataset_json(source: Path, card: Card) -> None:
    """Refuse several channels, and labels that the card does not know or numbers otherwise.

    Args:
        source: folder that may have a `dataset.json`.
        card: the numbers of its labels in the data set's files are compared.

    Raises:
        InputError: one of these faults, or a file that cannot be read.
    """
    content = _dataset(source)
    channels = content.get("channel_names") or content.get("modality")
    if isinstance(channels, Mapping) and len(channels) > 1:
        raise InputError(f"{DATASET}: {len(channels)} channels; volumes of one channel are read only")
    labels = content.get("labels")
    for key, entry in labels.items() if isinstance(labels, Mapping) else ():
        name, value = (entry, key) if str(key).isdecimal() else (key, entry)  # Decathlon's way round, or nnU-Net's
        if isinstance(name, str) and str(value).isdecimal() and int(value) > 0:
            _check_label(name, int(value), card)


def listed_pairs(source: Path) -> list[Pair]:
    """Return the training cases that the file lists, named after their images; none where it lists none.

    Raises:
        InputError: an entry that is no case, leads out of the folder, or names a file that is not there.
    """
    listed = _dataset(source).get("training")
    return [_listed_pair(entry, source) for entry in listed] if isinstance(listed, list) else []


def _listed_pair(entry: Any, source: Path) -> Pair:
    names = [entry.get(key) if isinstance(entry, Mapping) else None for key in ("image", "label")]
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{DATASET}: a training case without image or label; mend its list")
    image, label = (Path(os.path.normpath(source / name)) for name in names)
    if not all(path.is_relative_to(source) for path in (image, label)):
        raise InputError(f"{DATASET}: a training case outside the folder; mend its list")
    case = name_of(image)
    if case is None:
        raise InputError(f"{DATASET}: a training case that is no volume ({', '.join(SUFFIXES)}); mend its list")
    for path, kind in ((image, "image"), (label, "label")):
        if not path.is_file():
            raise InputError(f"{case}: its {kind} is in {DATASET}, but not in the folder; add it or mend the list")
    return Pair(case, image, label)


def _check_label(name: str, value: int, card: Card) -> None:
    """Compare one label; names are free, but one of the card's own organs must have that organ's value."""
    raw = {organ.name: organ.raw_values for organ in card.organs}
    if value not in {number for numbers in raw.values() for number in numbers} | set(card.raw_ignored):
        raise InputError(
            f"{DATASET}: label {value} ({name}) is no raw value of card {card.name}; take another card, or add "
            "raw_ignored to one of your own"
        )
    plain = re.sub("[^a-z0-9]+", "_", name.casefold()).strip("_")
    if plain in raw and value not in raw[plain]:
        numbers = ", ".join(map(str, raw[plain]))
        raise InputError(f"{DATASET}: {plain} is {value}, on card {card.name} {numbers}; take another card")


def _dataset(source: Path) -> Mapping[str, Any]:
    content = read_json(source / DATASET) if (source / DATASET).is_file() else {}
    if not isinstance(content, Mapping):
        raise InputError(f"{DATASET}: it must be an object with labels and training; mend or remove it")
    return content
