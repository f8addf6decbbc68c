"""Warnings of libraries: lines of the log, each reported once, without the place in the source where it arises."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

#: Warnings for developers of a library; a user cannot act on them.
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
#: What comes in many texts, or in words that name nothing of ours, in our own.
_OWN_WORDS = (
    (r"Glyph \d+ .*missing from font", "plots: the font here lacks letters of the organs' names, boxes stand for them"),
    (r"This DataLoader will create \d+ worker", "train: more workers than this machine has cores; take fewer of them"),
)
_told: set[str] = set()


@contextmanager
def told_once() -> Iterator[None]:
    """Send what libraries warn about to the log, each text once in a process; `@told_once()` does so in a function.

    Every `warnings.catch_warnings` makes Python forget what it has shown, so that it would come again with every case.
    """
    before = warnings.showwarning
    warnings.showwarning = _tell
    try:
        yield
    finally:
        warnings.showwarning = before


def _tell(message: Warning | str, category: type[Warning], filename: str, *_: Any) -> None:
    if issubclass(category, _FOR_DEVELOPERS):
        return
    line = _line(" ".join(str(message).split()), Path(filename))
    if line not in _told:
        _told.add(line)
        logger.warning("%s", line)


def _line(text: str, file: Path) -> str:
    """Return a warning in our words, or in its own behind the name of its package."""
    for pattern, words in _OWN_WORDS:
        if re.match(pattern, text):
            return words
    library = "python"
    if "site-packages" in file.parts:
        library = file.parts[file.parts.index("site-packages") + 1]
    return f"{library} warns: {text}"
