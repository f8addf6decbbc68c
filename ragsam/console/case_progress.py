"""How many cases are done, of work that no engine runs."""

from __future__ import annotations

import time

from ragsam.console.reporter import begin

_LINE_EVERY_S = 10.0


class CaseProgress:
    """Shows how many cases are done, in a `with` block; in a log now and then, and when all are done.

    Args:
        name: what is done.
        total: number of cases.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self._start = self._told = time.monotonic()
        self._shown = begin(name, total, "case")

    def __call__(self, done: int) -> None:
        """Show that `done` cases are done."""
        now = time.monotonic()
        line = None
        if done == self.total or now - self._told > _LINE_EVERY_S:
            self._told = now
            line = f"{self.name}: case {done} of {self.total}, {now - self._start:.0f} s passed"
        self._shown.advance(done, line)

    def __enter__(self) -> CaseProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.end()
