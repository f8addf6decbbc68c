"""How many cases are done, of work that no engine runs."""

from __future__ import annotations

import time

from ragsam.console.reporter import begin


class CaseProgress:
    """Shows how many cases are done, in a `with` block.

    Args:
        name: what is done.
        total: number of cases.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self._start = time.monotonic()
        self._shown = begin(name, total, "case")

    def __call__(self, done: int) -> None:
        """Show that `done` cases are done."""
        passed = time.monotonic() - self._start
        self._shown.advance(done, f"{self.name}: case {done} of {self.total}, {passed:.0f} s passed")

    def __enter__(self) -> CaseProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.end()
