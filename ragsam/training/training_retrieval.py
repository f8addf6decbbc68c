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
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.retriever import Retriever
from ragsam.training.neighbour_votes import FEW, SliceVotes

logger = logging.getLogger(__name__)


class TrainingRetrieval:
    """Injects `supports` into every training batch, found among the other training patients.

    The bank is built in the first epoch. If the descriptor uses the encoder, the bank is rebuilt at every
    `refresh_epochs`-th epoch in which the encoder has changed, and when it is frozen. Labels are transferred to a slice
    before augmentation, and the vote is augmented with it: it is then as good as it will be on whole volumes. If the
    fusion has nothing to learn, no slice gets supports: to the bit it is a training without retrieval.

    Args:
        retriever: its bank is replaced.
        preparation: how slices are prepared, see `bank_fit`.
        withheld: share of slices that see no supports.
        wrong: share of slices that see another slice's supports, so that the network learns to distrust them.
        refresh_epochs: epochs between rebuilds.
        frozen_from: the first epoch with a frozen encoder, see `FrozenEncoder`; None: it is trained to the end.
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
        """Build the bank if absent or its encoder has changed, and let its slices vote."""
        epoch = engine.state.epoch
        fusion = self.network.fusion
        bank = self.retriever.bank
        due = (epoch - 1) % self.refresh_epochs == 0 or epoch == self.frozen_from
        if bank is None or (due and bank.fit != self._fit()):
            bank = build_bank(self.retriever, self.network, self.dataset, self.preparation)
            self._report(bank)
        if epoch == 1 and fusion.vote_product is not None:
            fusion.vote_product.start(bank.patient_count)
        if not (self.retriever.carry and fusion.learns):
            return
        if self._votes is None or self._votes.bank is not bank or epoch == self.frozen_from:
            frozen = self.frozen_from is not None and epoch >= self.frozen_from
            encode = None
            if self.retriever.needs_embedding:
                encode = partial(encode_alone if frozen else encoding, self.network)
            self._votes = SliceVotes(self.retriever, self.network.num_classes + 1, encode, frozen=frozen)
            self.dataset.vote_by(self._votes)

    def _fit(self) -> dict[str, Any]:
        """Return what a bank built now would be made for."""
        return bank_fit(self.retriever, self.network, self.preparation, self.dataset.cases)

    def _report(self, bank: Bank) -> None:
        logger.info("bank: %d slices of %d patients", len(bank), bank.patient_count)
        if not self.network.fusion.learns:
            return
        if self.retriever.carry and bank.patient_count <= FEW:
            logger.warning("bank: so few patients that altered copies of a patient's own distant slices vote too")
        elif bank.patient_count == 1:
            logger.warning("bank: one patient has no other to learn from; no label votes")

    def inject(self, engine: Engine) -> None:
        """Put the supports of the batch's slices into the batch."""
        if not self.network.fusion.learns:
            return
        batch = engine.state.batch
        images = batch["image"]
        if "vote" in batch:
            own = torch.arange(len(images))
            chosen = torch.where(torch.rand(len(images)) < self.wrong, own.roll(1), own)
            vote = batch["vote"][chosen]
            supports = Supports.of_vote(vote, vote.amax(dim=(1, 2, 3)) > 0)
        else:
            embedding = batch.get("embedding")
            if embedding is None and self.retriever.needs_embedding:
                embedding = encoding(self.network, images)
            queries = [(patient, None) for patient in batch["patient"]]
            near = self.retriever.find(images, embedding, batch["height"], queries)
            found, _ = self.retriever.supports(near, images)
            supports = self.retriever.weighed(found)
        kept = torch.rand(len(images)) >= self.withheld
        batch["supports"] = replace(supports, weights=supports.weights * kept[:, None])
