"""How many cases are done, of work that no engine runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 10.0


class CaseProgress:
    """Shows how many cases are done, in a `with` block: a bar on a terminal, elsewhere a plain line now and then.

    Args:
        name: what is done.
        total: number of cases.
    """

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self._start = self._told = time.monotonic()
        self._bar = tqdm(total=total, desc=name, unit="case") if sys.stderr.isatty() else None

    def __call__(self, done: int) -> None:
        """Show that `done` cases are done."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif done == self.total or now - self._told > _LINE_EVERY_S:
            self._told = now
            logger.info("%s: case %d of %d, %.0f s passed", self.name, done, self.total, now - self._start)

    def __enter__(self) -> CaseProgress:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
