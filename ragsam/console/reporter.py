"""How far long work is: told to one reporter, which shows bars or lines and may be replaced."""

from __future__ import annotations

import logging
import sys
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class Shown:
    """Work that a reporter shows; this one shows nothing."""

    def advance(self, done: int, line: str | None = None, **beside: str) -> None:
        """Show that so many units are done.

        Args:
            done: units, those that were done before among them.
            line: what a log should say of it; None: nothing.
            beside: values by name, for beside a bar.
        """

    def end(self) -> None:
        """Leave it as it is; the work has ended."""


class Reporter(Protocol):
    """Shows work that goes on. Works that lie within each other may be shown at once."""

    def begin(self, name: str, total: int | None, unit: str, done: int = 0) -> Shown:
        """Show work that begins.

        Args:
            name: what is done, such as `train`.
            total: how many units it has; None where nobody knows.
            unit: one of them, such as `volume`.
            done: how many were done before.
        """


class TerminalReporter:
    """A bar on a terminal or in a notebook; lines of the log `ragsam` elsewhere."""

    def begin(self, name: str, total: int | None, unit: str, done: int = 0) -> Shown:
        """Show work that begins."""
        ipython = sys.modules.get("IPython")
        notebook = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
        if not notebook and not sys.stderr.isatty():
            return _Lines()
        from tqdm.auto import tqdm  # a notebook's bar in a notebook

        return _Bar(tqdm(desc=name, total=total, unit=unit, initial=done, dynamic_ncols=True))


class QuietReporter:
    """Shows nothing."""

    def begin(self, name: str, total: int | None, unit: str, done: int = 0) -> Shown:
        """Take note of nothing."""
        return Shown()


class _Lines(Shown):
    def advance(self, done: int, line: str | None = None, **beside: str) -> None:
        if line is not None:
            logger.info(line)


class _Bar(Shown):
    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def advance(self, done: int, line: str | None = None, **beside: str) -> None:
        self.bar.update(done - self.bar.n)
        if beside:
            self.bar.set_postfix(beside)

    def end(self) -> None:
        self.bar.close()


_reporter: Reporter = TerminalReporter()


def set_reporter(reporter: Reporter | None) -> Reporter:
    """Show how far long work is by another reporter from now on; None shows nothing. Return the one before."""
    global _reporter
    before = _reporter
    _reporter = reporter or QuietReporter()
    return before


def begin(name: str, total: int | None, unit: str, done: int = 0) -> Shown:
    """Show work that begins by the reporter that is set; see `Reporter.begin`."""
    return _reporter.begin(name, total, unit, done)
