"""Dataset cards: the one place where a data set's label names, numbers and colours, window and licence live."""

from __future__ import annotations

import fnmatch
from importlib import resources
from pathlib import Path

from ragsam.data.cards.model import Card, Code, Organ, PatientRule
from ragsam.data.cards.schema import parse_card
from ragsam.errors import InputError
from ragsam.io.documents import parse_yaml, read_text

__all__ = ["Card", "Code", "Organ", "PatientRule", "card_text", "list_cards", "load_card", "parse_card"]


def list_cards() -> list[str]:
    """Return the names of the packaged cards, sorted."""
    files = [entry.name for entry in resources.files(__package__).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in fnmatch.filter(files, "*.yaml"))


def card_text(name_or_path: str | Path) -> str:
    """Return the yaml text of a packaged card or of a card file, unparsed; raises InputError as `load_card`."""
    name = str(name_or_path)
    if name.endswith((".yaml", ".yml")):
        file = Path(name_or_path)
    elif name in list_cards():
        file = resources.files(__package__) / f"{name}.yaml"
    else:
        known = ", ".join(list_cards())
        raise InputError(f"{name!r}: no such card; choose one of {known}, or the path of a card's .yaml file")
    return read_text(file, f"card {name}")


def load_card(name_or_path: str | Path) -> Card:
    """Load a packaged card by its name, or a card of your own by the path of its yaml file.

    Raises:
        InputError: unknown name, missing file, not yaml, or a card that breaks the rules of `parse_card`.

    Examples:
        >>> load_card("hippocampus").labels
        {'anterior': 1, 'posterior': 2}
    """
    where = f"card {name_or_path}"
    return parse_card(parse_yaml(card_text(name_or_path), where), where=where)
