"""The card of a run with the numbers of the label files that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from ragsam.data.cards.load import card_text, load_card
from ragsam.data.cards.schema import parse_card
from ragsam.errors import InputError
from ragsam.io.documents import parse_yaml


def card_text_with(card: str, label_map: Mapping[int, int] | None) -> str:
    """Return a card's yaml text whose `raw` numbers are those of a datalist's label map.

    The text stays as it is without a map, where the card has these numbers, or where no card can have them (negative).
    """
    text = card_text(card)
    if label_map is None or dict(label_map) == load_card(card).label_map:
        return text
    content = parse_yaml(text, card)
    for organ in content["organs"]:
        organ.pop("raw", None)
        if raw := [number for number, value in label_map.items() if value == organ["value"]]:
            organ["raw"] = raw
    content["raw_ignored"] = [number for number, value in label_map.items() if value == 0]
    try:
        parse_card(content)
    except InputError:
        return text
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
