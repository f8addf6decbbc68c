"""Whose numbers a label volume has: the card's, 1 to K, or the data set's own (`raw` on the card).

`CASE.labels.json` beside a label volume that the package wrote names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.model import Card
from ragsam.errors import InputError
from ragsam.files import sha256_file, write_json_atomic
from ragsam.io.documents import check_schema, read_json
from ragsam.io.volume_names import without_suffix

NUMBERINGS = ("card", "raw")
SIDECAR_SUFFIX = ".labels.json"


def check_numbering(value: str | None, option: str = "--labels") -> None:
    """Refuse what names no numbering; None is left to be found out."""
    if value is not None and value not in NUMBERINGS:
        raise InputError(f"{option} {value}: no such numbers; choose card or raw")


def raw_numbers(card: Card) -> dict[str, int]:
    """Return the data set's own number of every organ; of organs that the card merges, the first."""
    return {organ.name: organ.raw_values[0] for organ in card.organs}


def to_raw(labels: NDArray[np.uint8], card: Card) -> NDArray[np.unsignedinteger]:
    """Return labels in the data set's own numbers, in the smallest unsigned type that holds all."""
    table = np.array([0, *raw_numbers(card).values()])
    return table.astype(np.min_scalar_type(table.max()))[labels]


def possible_numberings(values: Iterable[int], card: Card, raw: Mapping[int, int]) -> frozenset[str]:
    """Return the numberings in which all of some label values have a meaning; 0 is background in both.

    Args:
        values: that occur in label files.
        raw: the data set's values to the card's.
    """
    found = set(values) - {0}
    known = {"card": found <= set(card.labels.values()), "raw": found <= raw.keys()}
    return frozenset(name for name in NUMBERINGS if known[name])


def sidecar_name(case: str) -> str:
    """Return the name of the file that names the numbers of a case's label volume."""
    return case + SIDECAR_SUFFIX


def sidecar(volume: Path) -> Path:
    """Return the path of the file that names a label volume's numbers."""
    return volume.with_name(sidecar_name(without_suffix(volume.name)))


def write_sidecar(volume: Path, labels: Mapping[str, int], **about: Any) -> None:
    """Name the numbers of a written label volume, which is known again by its SHA-256.

    Args:
        labels: {organ: number} of all of the card, and of objects beside them.
    """
    content = {"file": volume.name, "sha256": sha256_file(volume), **about, "labels": dict(labels)}
    write_json_atomic(sidecar(volume), content)


def told_numbering(volume: Path, card: Card, raw: Mapping[int, int] | None) -> str | None:
    """Return the numbering that the file beside a label volume gives; None for no file, or one of another volume.

    Args:
        raw: the data set's values to the card's; None if they are the same.

    Raises:
        InputError: it gives organs of another card, or other numbers than the card has for them.
    """
    path = sidecar(volume)
    if not path.is_file():
        return None
    content = read_json(path)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict) or content.get("sha256") != sha256_file(volume):
        return None
    check_schema(labels, {"additionalProperties": {"type": "integer"}}, f"{path.name}: labels")
    numbers = {organ: labels.get(organ) for organ in card.labels}
    if numbers == card.labels:
        return "card"
    if {organ: (raw or {}).get(number) for organ, number in numbers.items()} == card.labels:
        return "raw"
    raise InputError(
        f"{volume.name}: of {', '.join(labels)}, by its {path.name}, not of card {card.name}; take its own card"
    )
