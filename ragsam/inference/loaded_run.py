"""A run in memory: its network with its weights, and what prepares, searches and segments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case
from ragsam.data.volumes import VolumeDataset
from ragsam.inference.bank_building import attach_bank, finds_bank
from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks.segmenter import Segmenter
from ragsam.retrieval.retriever import Retriever
from ragsam.runs.run import RunFolder, bad_input, part_of
from ragsam.runs.weights import WeightsLoader


class LoadedRun:
    """A run's `inference.yaml`, built once: its network has its weights, its bank is opened when it is first searched.

    Args:
        folder: the run.
        cases: what `dataset` holds.
        values: of the config, by their keys, instead of its own.

    Raises:
        InputError: weights that are missing or do not fit, or a config that does not.
    """

    def __init__(self, folder: RunFolder, cases: Sequence[Case] = (), **values: Any) -> None:
        self.folder = folder
        values["inferer#retrieval"] = None  # supports are arguments here
        parser = folder.parser("inference", cases=list(cases), **values)
        self.get = parser.get_parsed_content
        part = partial(part_of, parser)
        with bad_input():
            self.card: Card = part("card_def")
            self.dataset: VolumeDataset = part("dataset")
            self.inferer: VolumeInferer = part("inferer")
            self.postprocessing = part("postprocessing")
            self.network: Segmenter = part("network").eval()
            self.device = torch.device(self.get("device"))
            if self.get("weights") is not None:
                WeightsLoader(self.network, self.get("weights")).load()
        self._retriever: Retriever | None = None

    @cached_property
    def retrieves(self) -> bool:
        """Whether the run segments with a bank; one that is missing is said once."""
        wanted = bool(self.get("retrieval")) and self.network.fusion is not None
        return wanted and finds_bank(self.get("bank"))

    def open_bank(self) -> Retriever:
        """Return the run's retriever, its bank opened.

        Raises:
            InputError: no bank, or one that is damaged or made for something else.
        """
        if self._retriever is None:
            with bad_input():
                retriever = self.get("retriever")
                attach_bank(retriever, self.network, self.get("bank"), self.get("preparation"))
            self._retriever = retriever
        return self._retriever

    def forget_bank(self) -> None:
        """Close the bank; it is opened again when it is searched next."""
        if self._retriever is not None:
            self._retriever.detach()
        self._retriever = None
        self.__dict__.pop("retrieves", None)

    def supports(self, case: Case) -> VolumeSupports | None:
        """Return what finds the supports of a case's slices; None if the run does not retrieve."""
        return VolumeSupports(self.open_bank(), case.patient, case.case) if self.retrieves else None
