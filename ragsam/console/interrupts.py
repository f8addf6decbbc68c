"""Ctrl-C, and SIGTERM in the same way: one exception, which only the main process reports."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came, as from a scheduler that takes the machine back."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise `TerminatedError` in the block where SIGTERM would end the process; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_interrupts_to_parent() -> None:
    """Have a worker process ignore Ctrl-C, which a terminal sends to all, and end by SIGTERM without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: Any) -> None:
    raise TerminatedError
