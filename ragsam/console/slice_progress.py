"""How far a volume is, by slices; between them by the batches that went through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ragsam.console.reporter import SLICE, Shown, begin


class SliceProgress:
    """Counts the slices of a volume that are done, and its batches.

    Args:
        shown: work of a reporter, by slices.
    """

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._slices = 0
        self._batches = 0

    def batch(self) -> None:
        """Count a batch: of large slices some may go by before any slice is done."""
        self._batches += 1
        self._shown.advance(self._slices, batch=str(self._batches))

    def reach(self, slices: int) -> None:
        """Show that so many slices are done."""
        self._slices = slices
        self._shown.advance(slices, batch=str(self._batches))


@contextmanager
def slice_progress(total: int | None) -> Iterator[SliceProgress]:
    """Show how far a volume of so many slices is, in a `with` block; in a log only where it takes long."""
    shown = begin("this volume", total, SLICE)
    try:
        yield SliceProgress(shown)
    finally:
        shown.end()
