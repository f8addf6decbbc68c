"""Volumes are read and prepared beside the network: the next one while it works on this one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monai.data import DataLoader


class ReadAheadLoader(DataLoader):
    """MONAI's loader, whose next batch is loaded in a thread; an error comes where that batch would have come.

    MONAI's own `ThreadBuffer` ends without a word where loading fails. A process instead would hand whole volumes over
    through shared memory, of which a container has little.
    """

    def __iter__(self) -> Iterator[Any]:
        """Yield what the loader yields."""
        batches, end = super().__iter__(), object()
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            coming = pool.submit(next, batches, end)
            while (batch := coming.result()) is not end:
                coming = pool.submit(next, batches, end)
                yield batch
