"""Retrieval in training: supports from the other training patients go into every batch."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from ignite.engine import Engine, Events

from ragsam.data.slices import SliceDataset
from ragsam.inference.bank_building import bank_fit, build_bank, encode_alone, encoding
from ragsam.networks.segmenter import Segmenter
from ragsam.networks.supports import Supports
from ragsam.retrieval.retriever import Retriever
from ragsam.training.neighbour_votes import FEW, SliceVotes

logger = logging.getLogger(__name__)


class TrainingRetrieval:
    """Injects `supports` into every training batch, found among the other training patients.

    The bank is built in the first epoch. Where the descriptor looks at the encoder, it is built anew
    at every `refresh_epochs`-th epoch in which the encoder has moved, and when it is frozen. Where labels are carried
    over, that is done on a slice as it is, and the vote augmented with it: as good as it will be on whole volumes.
    Where the fusion has nothing to learn, no slice gets supports: to the bit it is a training without retrieval.

    Args:
        network: the segmenter that trains.
        retriever: searches; its bank is replaced.
        dataset: the training slices.
        preparation: how slices are prepared, see `bank_fit`.
        withheld: share of queries that see no supports.
        wrong: share of queries that see another query's supports, so that the network learns to distrust.
        refresh_epochs: epochs between rebuilds.
        frozen_from: the first epoch in which the encoder stands still, see `FrozenEncoder`; None: it moves to the end.
    """

    def __init__(
        self,
        network: Segmenter,
        retriever: Retriever,
        dataset: SliceDataset,
        preparation: dict[str, Any],
        *,
        withheld: float = 0.0,
        wrong: float = 0.1,
        refresh_epochs: int = 5,
        frozen_from: int | None = None,
    ) -> None:
        self.network = network
        self.retriever = retriever
        self.dataset = dataset
        self.preparation = preparation
        self.withheld = withheld
        self.wrong = wrong
        self.refresh_epochs = refresh_epochs
        self.frozen_from = frozen_from
        self._votes: SliceVotes | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.refresh)
        engine.add_event_handler(Events.ITERATION_STARTED, self.inject)

    def refresh(self, engine: Engine) -> None:
        """Build the bank where there is none, or where its encoder has moved; and let its neighbours vote."""
        bank, epoch = self.retriever.bank, engine.state.epoch
        due = (epoch - 1) % self.refresh_epochs == 0 or epoch == self.frozen_from
        if bank is None or (due and bank.fit != bank_fit(self.retriever, self.network, self.preparation)):
            bank = build_bank(self.retriever, self.network, self.dataset, self.preparation)
            self._tell(len(bank), bank.patient_count)
        if self.network.fusion.vote_product is not None and epoch == 1:
            self.network.fusion.vote_product.start(bank.patient_count)
        if not (self.retriever.carry and self._learns):
            return
        frozen = self.frozen_from is not None and epoch >= self.frozen_from
        if self._votes is None or self._votes.bank is not bank or epoch == self.frozen_from:
            way = encode_alone if frozen else encoding
            encode = partial(way, self.network) if self.retriever.needs_embedding else None
            self._votes = SliceVotes(self.retriever, self.network.num_classes + 1, encode, frozen=frozen)
            self.dataset.vote_by(self._votes)

    @property
    def _learns(self) -> bool:
        return self.network.fusion.learns

    def _tell(self, slices: int, patients: int) -> None:
        logger.info("bank: %d slices of %d patients", slices, patients)
        if not self._learns:
            return
        if patients <= FEW and self.retriever.carry:
            logger.warning("bank: so few patients that altered copies of a patient's own distant slices vote too")
        elif patients == 1:
            logger.warning("bank: one patient alone has no other to learn from; none vote")

    def inject(self, engine: Engine) -> None:
        """Put the supports of the batch's slices into the batch."""
        if not self._learns:
            return
        batch = engine.state.batch
        supports = self._of_votes(batch) if "vote" in batch else self._of_labels(batch)
        kept = torch.rand(len(batch["image"])) >= self.withheld
        batch["supports"] = replace(supports, weights=supports.weights * kept[:, None])

    def _of_votes(self, batch: dict[str, Any]) -> Supports:
        others = torch.arange(len(batch["vote"]))
        others = torch.where(torch.rand(len(others)) < self.wrong, others.roll(1), others)
        vote = batch["vote"][others]
        return Supports.of_vote(vote, vote.amax(dim=(1, 2, 3)) > 0)

    def _of_labels(self, batch: dict[str, Any]) -> Supports:
        images = batch["image"]
        embedding = batch.get("embedding")
        if embedding is None and self.retriever.needs_embedding:
            embedding = encoding(self.network, images)
        queries = [(patient, None) for patient in batch["patient"]]
        found = self.retriever.find(images, embedding, batch["height"], queries)
        return self.retriever.weighed(self.retriever.supports(found, images)[0])
