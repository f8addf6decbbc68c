"""Cards as text for a terminal: all of them in a table, or one in full."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ragsam.data.cards.model import Card, Code, SplitPart

_WIDTH = 100
_INDENT = 14


def cards_table(cards: Sequence[Card]) -> str:
    """Return a line a card: name, modality, number of organs, title."""
    rows = [("card", "modality", "organs", "title")]
    for card in cards:
        rows.append((card.name, card.modality, str(card.num_classes), card.title))
    return _table(rows)


def card_page(card: Card) -> str:
    """Return a card in full: its organs in a table, then everything else by name."""
    rows = [("value", "organ", "raw values", "colour", "tolerance", "code")]
    for organ in card.organs:
        raw = _joined(organ.raw_values)
        colour = "#{:02x}{:02x}{:02x}".format(*organ.colour)
        tolerance = f"{organ.tolerance_mm:g} mm"
        rows.append((str(organ.value), organ.name, raw, colour, tolerance, _code(organ.code)))
    lines = [f"{card.name}: {card.title}", "", _table(rows), ""]
    for name, text in _facts(card):
        hanging = {"initial_indent": name.ljust(_INDENT), "subsequent_indent": " " * _INDENT}
        lines.append(textwrap.fill(text, _WIDTH, break_long_words=False, **hanging))
    return "\n".join(lines)


def _facts(card: Card) -> Iterator[tuple[str, str]]:
    """Yield names and texts of everything on a card but its title and organs."""
    window = "percentiles 0.5 to 99.5 of each volume"
    if card.window is not None:
        window = "{:g} to {:g} HU".format(*card.window)
    ignored = "none"
    if card.raw_ignored:
        ignored = _joined(card.raw_ignored) + " (raw values, background here)"
    patients = "by a table that you give"
    if card.patient_rule is not None:
        patients = card.patient_rule.note
    yield "modality", card.modality
    yield "window", window
    yield "left, right", _joined(map(" and ".join, card.left_right)) or "none"
    yield "ignored", ignored
    yield "layouts", _joined(card.layouts) or "any"
    yield "patients", patients
    if card.split is None:
        shares = "a fifth of the patients for the test (none of fewer than 5), a tenth for validation (one at least)"
        yield "split", f"none of its own: {shares}, by the seed"
    else:
        yield "split", card.split.note
        for section in ("validation", "test"):
            part = getattr(card.split, section)
            if part is not None:
                yield section, _split_part(part)
    yield "protocol", card.protocol
    yield "licence", card.licence
    yield "source", card.source
    yield "citation", card.citation
    if card.notes is not None:
        yield "notes", card.notes


def _code(code: Code | None) -> str:
    if code is None:
        return "-"
    told = f"{code.scheme} {code.value} {code.meaning}"
    if code.modifier is not None:
        told += f", {code.modifier.meaning.lower()}"
    return told


def _split_part(part: SplitPart) -> str:
    if part.column is not None:
        return f"where {part.column} of the manifest is {' or '.join(part.values)}"
    if part.count is not None:
        return f"{part.count} patients by the seed"
    return _joined((*part.cases, *part.patients))


def _joined(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = map(str.ljust, row, widths)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
