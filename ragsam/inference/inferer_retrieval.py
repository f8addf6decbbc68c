"""Retrieval where no handler drives it: MONAI Label calls the inferer with a volume and the network alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ragsam.data.served import case_name
from ragsam.inference.bank_building import attach_bank, finds_bank
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks.segmenter import Segmenter
from ragsam.retrieval.bank_manifest import MANIFEST
from ragsam.retrieval.retriever import Retriever


class InfererRetrieval:
    """Gives an inferer the supports of a volume that comes without.

    The volume's file gives its case, which is taken for a patient of its own, as `ragsam segment` does with a file:
    slices of that name are left out. The bank is opened at the first volume, and again where it, or the network, is
    another one.

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

    def __call__(self, network: Segmenter, volume: Tensor) -> VolumeSupports | None:
        """Return the supports of a volume; None while there is no bank.

        Raises:
            InputError: a bank that is damaged or made for something else.
        """
        with self._lock:
            if not finds_bank(self.bank):
                return None
            self._open(network)
        name = case_name(getattr(volume, "meta", {}).get("filename_or_obj"))
        return VolumeSupports(self.retriever, name, name)

    def _open(self, network: Segmenter) -> None:
        manifest = self.bank / MANIFEST
        written = manifest.stat().st_mtime_ns if manifest.is_file() else None
        if written is None or written != self._opened or network is not self._network:
            attach_bank(self.retriever, network, self.bank, self.preparation)
            self._opened, self._network = written, network
