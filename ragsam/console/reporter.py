"""Progress of long work: one reporter, which may be replaced, shows it as bars or lines."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Protocol

logger = logging.getLogger(__name__)

#: Between a log's lines of one work, but for its first and its last.
LINE_EVERY_S = 10.0
#: The unit of works that are within those by volumes: their bar appears only where one takes so long, and goes again.
SLICE = "slice"
_BAR_AFTER_S = 2.0


class Shown:
    """Work that a reporter shows; this one shows nothing."""

    def advance(self, done: int, line: str | None = None, **beside: str) -> None:
        """Show that so many units are done.

        Args:
            done: units, those that were done before among them.
            line: what a log may say of it; None: only that it continues, once nothing was said for a while.
            beside: values by name, for beside a bar.
        """

    def end(self) -> None:
        """Leave it as it is; the work has ended."""


class Reporter(Protocol):
    """Shows work that continues. Works that are within each other may be shown at once."""

    def begin(self, name: str, total: int | None, unit: str, done: int = 0) -> Shown:
        """Show work that begins.

        Args:
            name: what is done, such as `train`.
            total: how many units it has; None if nobody knows.
            unit: one of them, such as `volume`.
            done: how many were done before.
        """


class TerminalReporter:
    """A bar on a terminal or in a notebook; lines of the log `ragsam` elsewhere, few where work is quick."""

    def begin(self, name: str, total: int | None, unit: str, done: int = 0) -> Shown:
        """Show work that begins."""
        ipython = sys.modules.get("IPython")
        notebook = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
        if not notebook and not sys.stderr.isatty():
            return _Lines(name, total, unit)
        from tqdm.auto import tqdm  # a notebook's bar in a notebook

        within = {"leave": False, "delay": _BAR_AFTER_S} if unit == SLICE else {}
        bar = tqdm(desc=name, total=total, unit=unit, initial=done, dynamic_ncols=True, miniters=0, **within)
        return _Bar(bar)


class QuietReporter:
    """Shows nothing."""

    def begin(self, name: str, total: int | None, unit: str, done: int = 0) -> Shown:
        """Take note of nothing."""
        return Shown()


class _Lines(Shown):
    """The first line of a work, its last, and between them one in `LINE_EVERY_S`; in a lull how far it is."""

    _any = 0.0  # when any work was last reported: meanwhile the works within it need no line

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name = name
        self.of = f" of {total}" if total else ""
        self.total = total
        self.unit = unit
        self._begun = time.monotonic()
        self._own = float("-inf")
        self._held: str | None = None

    def advance(self, done: int, line: str | None = None, **beside: str) -> None:
        now = time.monotonic()
        self._held = line or self._held
        if line is not None and (done == self.total or now - self._own >= LINE_EVERY_S):
            self._say(line, now)
            self._own = now
            self._held = None
        elif line is None and now - max(self._begun, _Lines._any) >= LINE_EVERY_S:
            values = [f"{name} {value}" for name, value in beside.items()]
            self._say(", ".join([f"{self.name}: {self.unit} {done}{self.of}", *values]), now)

    def end(self) -> None:
        if self._held is not None:
            self._say(self._held, time.monotonic())
            self._held = None

    def _say(self, line: str, now: float) -> None:
        _Lines._any = now
        logger.info(line)


class _Bar(Shown):
    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def advance(self, done: int, line: str | None = None, **beside: str) -> None:
        if beside:
            self.bar.set_postfix(beside, refresh=False)
        self.bar.update(done - self.bar.n)

    def end(self) -> None:
        self.bar.close()


_reporter: Reporter = TerminalReporter()


def set_reporter(reporter: Reporter | None) -> Reporter:
    """Set the reporter that shows the progress of long work, and return the previous one; None shows nothing.

    Examples:
        >>> before = set_reporter(None)  # a quiet program
        >>> _ = set_reporter(before)
    """
    global _reporter
    before = _reporter
    _reporter = reporter or QuietReporter()
    return before


def begin(name: str, total: int | None, unit: str, done: int = 0) -> Shown:
    """Show work that begins by the reporter that is set; see `Reporter.begin`."""
    return _reporter.begin(name, total, unit, done)
