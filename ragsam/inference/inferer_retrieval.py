"""Retrieval where no handler drives it: MONAI Label calls the inferer with a volume and the network alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ragsam.data.served import case_name
from ragsam.inference.bank_building import bank_fit
from ragsam.networks.segmenter import Segmenter
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.bank_manifest import MANIFEST
from ragsam.retrieval.retriever import Retriever


class OwnRetrieval:
    """Switches a network's retrieval on for a volume, unless a handler has done so already.

    The volume's file tells its case, which is taken for a patient of its own, as `ragsam segment` does with a file:
    slices of that name are left out. The bank is opened at the first volume, and again where it, or the network, is
    another one. One volume at a time: a server has several threads.

    Args:
        retriever: searches; its bank is replaced.
        bank: folder of the bank.
        preparation: how slices are prepared; a bank made otherwise is refused.
    """

    def __init__(self, retriever: Retriever, bank: str | os.PathLike[str], preparation: Mapping[str, Any]) -> None:
        self.retriever = retriever
        self.bank = Path(bank)
        self.preparation = dict(preparation)
        self._lock = threading.Lock()
        self._network: Segmenter | None = None
        self._opened: int | None = None

    @contextmanager
    def __call__(self, network: Segmenter, volume: Tensor) -> Iterator[None]:
        """Let the network retrieve for a volume while the block runs.

        Raises:
            InputError: no bank, or one that is damaged or made for something else.
        """
        if network.lookup is not None:
            yield
            return
        with self._lock:
            self._open(network)
            name = case_name(getattr(volume, "meta", {}).get("filename_or_obj"))
            self.retriever.query = (name, name)
            network.lookup = self.retriever
            try:
                yield
            finally:
                network.lookup = None

    def _open(self, network: Segmenter) -> None:
        manifest = self.bank / MANIFEST
        written = manifest.stat().st_mtime_ns if manifest.is_file() else None
        if written is None or written != self._opened or network is not self._network:
            self.retriever.attach(Bank.open(self.bank, bank_fit(self.retriever, network, self.preparation)))
            self._opened, self._network = written, network
