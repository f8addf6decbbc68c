"""Tables as spreadsheets save them: commas, semicolons or tabs between cells, in UTF-8 or UTF-16."""

from __future__ import annotations

import codecs
import csv
import io
from itertools import zip_longest
from pathlib import Path

from ragsam.errors import InputError
from ragsam.files import read_bytes
from ragsam.io.volume_names import composed

_MOST_BYTES = 1 << 26
_DELIMITERS = ",;\t"


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return a table's columns and its lines; cells are stripped, missing ones empty, accents composed.

    Cells are divided by the one of comma, semicolon and tab that is the most frequent in the first line.

    Raises:
        InputError: a file that cannot be read or is not text, a column named twice, or a line of more cells than
            columns, as a comma within a name makes.
    """
    text = composed(_text(path))
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    lines = io.StringIO(text, newline="")
    try:
        columns, *rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)] or [[]]
    except csv.Error as error:
        raise InputError(f"{path.name}: the table cannot be read ({error}); check the file") from error
    named = list(filter(None, columns))
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise InputError(f"{path.name}: column {twice[0]} is named twice; keep one")
    table = []
    for number, row in enumerate(rows, start=2):
        if any(row[len(columns) :]):
            raise InputError(
                f"{path.name}: row {number} has more cells than the first; put cells with commas in quotes"
            )
        if any(row):
            cells = dict(zip_longest(columns, row[: len(columns)], fillvalue=""))
            table.append({name: cells[name] for name in named})
    return named, table


def _text(path: Path) -> str:
    content = read_bytes(path, _MOST_BYTES, path.name)
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: the table is neither UTF-8 nor UTF-16; save it as CSV UTF-8") from error
