"""Volumes are read and prepared beside the network: the next one while it works on this one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from monai.data import DataLoader

from ragsam.errors import InputError

_END = object()


class ReadAheadLoader(DataLoader):
    """MONAI's loader, whose next batch is loaded in a thread; an error comes where that batch would have come.

    MONAI's own `ThreadBuffer` ends without a word where loading fails. A process instead would hand whole volumes over
    through shared memory, of which a container has little.

    Args:
        skip_faulty: leave batches out that are bad input, instead of raising it.
        options: of MONAI's loader, and what it loads.
    """

    _started: Iterator[Any] | None = None

    def __init__(self, *data: Any, skip_faulty: bool = False, **options: Any) -> None:
        super().__init__(*data, **options)
        self.skip_faulty = skip_faulty

    def start(self) -> bool:
        """Load the first batch of the next iteration now; return whether there is one."""
        batches = self._ahead()
        first = next(batches, _END)
        if first is _END:
            return False
        self._started = chain([first], batches)
        return True

    def __iter__(self) -> Iterator[Any]:
        """Yield what the loader yields."""
        started, self._started = self._started, None
        return started or self._ahead()

    def _ahead(self) -> Iterator[Any]:
        batches = super().__iter__()
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            coming = pool.submit(self._next, batches)
            while (batch := coming.result()) is not _END:
                coming = pool.submit(self._next, batches)
                yield batch

    def _next(self, batches: Iterator[Any]) -> Any:
        while True:
            try:
                return next(batches, _END)
            except InputError:
                if not self.skip_faulty:
                    raise
