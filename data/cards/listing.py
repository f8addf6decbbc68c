"""Cards as text for a terminal: all of them in a table, or one in full."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ragsam.data.cards.model import Card, Code, Organ, Pieces, Split, SplitPart

_WIDTH = 100
_INDENT = 14


def cards_table(cards: Sequence[Card]) -> str:
    """Return a line a card: name, modality, number of organs, title."""
    rows = [("card", "modality", "organs", "title")]
    rows += [(card.name, card.modality, str(card.num_classes), card.title) for card in cards]
    return _table(rows)


def card_page(card: Card) -> str:
    """Return a card in full: its organs in a table, then everything else by name."""
    window = "percentiles 0.5 to 99.5 of each volume" if card.window is None else "{:g} to {:g} HU".format(*card.window)
    rows = [("value", "organ", "raw values", "colour", "tolerance", "code")] + [_row(organ) for organ in card.organs]
    pairs = ", ".join(f"{left} and {right}" for left, right in card.left_right) or "none"
    rule = card.patient_rule
    facts = [
        ("modality", card.modality),
        ("window", window),
        ("left, right", pairs),
        ("components", _components(card.organs)),
        ("ignored", _numbers(card.raw_ignored) + " (raw values, background here)" if card.raw_ignored else "none"),
        ("layouts", ", ".join(card.layouts) or "any"),
        ("patients", rule.note if rule else "by a table that you give"),
        *_split_facts(card.split),
        ("protocol", card.protocol),
        ("licence", card.licence),
        ("source", card.source),
        ("citation", card.citation),
        *([("notes", card.notes)] if card.notes else []),
    ]
    return "\n".join([f"{card.name}: {card.title}", "", _table(rows), "", *(_fact(*fact) for fact in facts)])


def _row(organ: Organ) -> tuple[str, ...]:
    colour = "#{:02x}{:02x}{:02x}".format(*organ.colour)
    code = _code(organ.code) if organ.code else "-"
    return str(organ.value), organ.name, _numbers(organ.raw_values), colour, f"{organ.tolerance_mm:g} mm", code


def _components(organs: Sequence[Organ]) -> str:
    """Return how many pieces each organ may have."""
    limited = [f"{organ.name} {_pieces(organ.components)}" for organ in organs if organ.components is not None]
    others = "any number of pieces" + (" for the others" if limited else "")
    return ", ".join([*limited, *([others] if len(limited) < len(organs) else [])])


def _pieces(components: Pieces) -> str:
    above = f"those of {components.above_ml:g} ml and more" if components.above_ml else ""
    return f"{components.most or ''} {above}".strip()


def _code(code: Code) -> str:
    side = f", {code.modifier.meaning.lower()}" if code.modifier else ""
    return f"{code.scheme} {code.value} {code.meaning}{side}"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _split_facts(split: Split | None) -> list[tuple[str, str]]:
    if split is None:
        return [("split", "none of its own: a fifth of the patients for the test, a tenth for validation, by the seed")]
    parts = [("validation", split.validation), ("test", split.test)]
    return [("split", split.note), *((name, _part(part)) for name, part in parts if part is not None)]


def _part(part: SplitPart) -> str:
    if part.column is not None:
        return f"where {part.column} of the manifest is {' or '.join(part.values)}"
    if part.count is not None:
        return f"{part.count} patients by the seed"
    return ", ".join((*part.cases, *part.patients))


def _fact(name: str, text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH - _INDENT, break_long_words=False)
    return "\n".join(f"{head:<{_INDENT}}{line}" for head, line in zip([name, *[""] * len(lines)], lines, strict=False))


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
