"""Retrieval handlers: they drive the network's retrieval from Ignite.

In training the handler searches the bank of the training patients and injects the supports into the batch. On whole
volumes the network looks its supports up itself, slice by slice; the handler tells it whose slices to leave out, and
writes down what was found.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader

from ragsam.data.slices import SliceDataset
from ragsam.files import write_json_atomic
from ragsam.networks.segmenter import Segmenter
from ragsam.networks.supports import Supports
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.novelty import Novelty, novelty
from ragsam.retrieval.retriever import Neighbours, Retriever
from ragsam.workflows.slice_votes import FEW, SliceVotes
from ragsam.workflows.stages import require_reached

logger = logging.getLogger(__name__)


def bank_fit(retriever: Retriever, network: Segmenter, preparation: dict[str, Any]) -> dict[str, Any]:
    """Return what a bank and its user must share: the preparation of slices, the descriptor, and its encoder if any."""
    fit = {**preparation, "descriptor": retriever.descriptor, "carry": retriever.carry}
    if retriever.needs_embedding or retriever.memory:
        fit["encoder"] = encoder_fingerprint(network)
    return fit


def encoder_fingerprint(network: Segmenter) -> str:
    """Return the SHA-256 of the weights that the embedding depends on."""
    digest = hashlib.sha256()
    for part in network.encoding_parts:
        for tensor in part.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def build_bank(
    retriever: Retriever, network: Segmenter, dataset: SliceDataset, preparation: dict[str, Any], batch_size: int = 32
) -> Bank:
    """Put every slice of a dataset, unaugmented, into a bank in memory and attach it to the retriever."""
    fit, keeps = bank_fit(retriever, network, preparation), retriever.keeps
    bank = Bank.collect(bank_batches(retriever, network, dataset, keeps, batch_size), fit, keeps)
    retriever.attach(bank)
    return bank


def bank_batches(
    retriever: Retriever, network: Segmenter, dataset: SliceDataset, keeps: Sequence[str] = (), batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """Yield every slice of a dataset, unaugmented, as a bank takes them; see `Retriever.described`."""
    # A generator of its own: MONAI's loader would set torch's global one back to its first seed.
    generator = torch.Generator().manual_seed(0)
    slices = dataset if dataset.augmentation is None else dataset.plain()
    loader = DataLoader(slices, batch_size=batch_size, num_workers=0, generator=generator)
    return retriever.described(loader, partial(encoding, network), keeps)


@torch.no_grad()
def encoding(network: Segmenter, image: torch.Tensor) -> torch.Tensor:
    """Return the embedding [B, C, h, w] of slices [B, C, S, S], whatever the network is doing otherwise."""
    training = network.training
    network.eval()
    embedding = network.encode(image.to(next(network.parameters()).device))
    network.train(training)
    return embedding


def encode_alone(network: Segmenter, image: torch.Tensor) -> torch.Tensor:
    """Return what `encoding` does, of every slice the same to the bit whatever others come with it."""
    return torch.cat([encoding(network, each) for each in image.split(1)])


class TrainingRetrieval:
    """Injects `supports` into every training batch, found among the other training patients.

    The bank is built in the first epoch that has supports. Where the descriptor looks at the encoder, it is built anew
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
        first_epoch: the first one with supports; the batches before it have none, and cost what they cost without
            retrieval.

    Raises:
        InputError: when attached, a first epoch below 1; at the start, one beyond the last.
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
        first_epoch: int = 1,
    ) -> None:
        self.network = network
        self.retriever = retriever
        self.dataset = dataset
        self.preparation = preparation
        self.withheld = withheld
        self.wrong = wrong
        self.refresh_epochs = refresh_epochs
        self.frozen_from = frozen_from
        self.first_epoch = first_epoch

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        require_reached(engine, "retrieval_from", self.first_epoch)
        engine.add_event_handler(Events.EPOCH_STARTED, self.refresh)
        engine.add_event_handler(Events.ITERATION_STARTED, self.inject)

    def refresh(self, engine: Engine) -> None:
        """Build the bank where there is none, or where its encoder has moved; and let its neighbours vote."""
        bank, epoch = self.retriever.bank, engine.state.epoch
        if epoch < self.first_epoch:
            return
        due = (epoch - 1) % self.refresh_epochs == 0 or epoch == self.frozen_from
        if bank is None or (due and bank.fit != bank_fit(self.retriever, self.network, self.preparation)):
            bank = build_bank(self.retriever, self.network, self.dataset, self.preparation)
            self._tell(len(bank), bank.patient_count)
        if self.network.fusion.vote_product is not None and epoch == self.first_epoch:
            self.network.fusion.vote_product.start(bank.patient_count)
        if not (self.retriever.carry and self._learns):
            return
        frozen = self.frozen_from is not None and epoch >= self.frozen_from
        if getattr(self.dataset.vote, "bank", None) is not bank or epoch == self.frozen_from:
            way = encode_alone if frozen else encoding
            encode = partial(way, self.network) if self.retriever.needs_embedding else None
            self.dataset.vote = SliceVotes(self.retriever, self.network.num_classes + 1, encode, frozen=frozen)

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
        if engine.state.epoch < self.first_epoch or not self._learns:
            return
        batch = engine.state.batch
        supports = self._of_votes(batch) if "vote" in batch else self._of_labels(batch)
        kept = torch.rand(len(batch["image"])) >= self.withheld
        batch["supports"] = replace(supports, weights=supports.weights * kept[:, None])

    def _of_votes(self, batch: dict[str, Any]) -> Supports:
        others = torch.arange(len(batch["vote"]))
        others = torch.where(torch.rand(len(others)) < self.wrong, others.roll(1), others)
        vote = batch["vote"][others]
        supports = Supports.of_vote(vote, vote.amax(dim=(1, 2, 3)) > 0)
        if "neighbours" in batch:
            supports.memory = self.retriever.memory_of(batch["neighbours"][others].numpy(), batch["weights"][others])
        return supports

    def _of_labels(self, batch: dict[str, Any]) -> Supports:
        images = batch["image"]
        embedding = batch.get("embedding")
        if embedding is None and self.retriever.needs_embedding:
            embedding = encoding(self.network, images)
        vectors = self.retriever.describe(images, embedding, batch["height"])
        own = [self.retriever.bank.own_patients(patient, None) for patient in batch["patient"]]
        return self.retriever.completed(*self.retriever.supports(self.retriever.search(vectors, own), images))


class VolumeRetrieval:
    """Lets the network retrieve for whole volumes, one at a time, the volume's own patient left out.

    Args:
        network: the segmenter.
        retriever: searches.
        bank: folder of a bank to open at the start; None uses the bank that the retriever has (in training).
        preparation: how slices are prepared; a bank made otherwise is refused.
        trace_path: where to write what was found, as JSON; None writes nothing.

    Raises:
        InputError: at the start, where the bank is damaged or made for something else.
    """

    def __init__(
        self,
        network: Segmenter,
        retriever: Retriever,
        *,
        bank: str | os.PathLike[str] | None = None,
        preparation: dict[str, Any] | None = None,
        trace_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.network = network
        self.retriever = retriever
        self.bank = bank
        self.preparation = preparation or {}
        self.trace_path = Path(trace_path) if trace_path else None
        self.cases: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator; after the handler that loads the weights."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.before_case)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.after_case)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: Engine) -> None:
        """Open the bank and switch the network's retrieval on."""
        if self.bank is not None:
            self.retriever.attach(Bank.open(self.bank, bank_fit(self.retriever, self.network, self.preparation)))
        self.retriever.record = self.trace_path is not None
        self.cases = {}
        self.network.lookup = self.retriever

    def before_case(self, engine: Engine) -> None:
        """Name the patient whose slices are left out."""
        batch = engine.state.batch
        self.retriever.query = (batch["patient"][0], batch["case"][0])
        self.retriever.trace = []

    def after_case(self, engine: Engine) -> None:
        """Note the neighbours of the case just segmented."""
        if self.trace_path is None or self.retriever.bank is None:
            return
        case, new = self.retriever.query[1], trace_novelty(self.retriever.bank, self.retriever.trace)
        if new is not None and new.flagged:
            told = "%s: unlike the bank's volumes (nearest slices at a distance of %.3f, p = %.1g); check its labels"
            logger.warning(told, case, new.score, new.p_value)
        slices = slices_of_trace(self.retriever)
        if not any(slices.values()):
            logger.warning("%s: the bank has no slice of another patient; none votes", case)
        self.cases[case] = {
            "orientation": "RAS",
            "axis": self.preparation.get("slice_axis", 2),
            "novelty": None if new is None else new.as_json(),
            "slices": slices,
        }

    def finish(self, engine: Engine) -> None:
        """Write the trace and switch the network's retrieval off."""
        self.network.lookup = None
        bank = self.retriever.bank
        if self.trace_path is not None and bank is not None:
            fingerprint = hashlib.sha256(bank.descriptors.tobytes()).hexdigest()[:16]
            about = {"slices": len(bank), "patients": bank.patient_count, "fingerprint": fingerprint}
            write_json_atomic(self.trace_path, {"bank": about, "cases": self.cases})

    def fail(self, engine: Engine, error: Exception) -> None:
        """Switch the network's retrieval off and pass the error on."""
        self.network.lookup = None
        raise error


def trace_novelty(bank: Bank, trace: Sequence[tuple[np.ndarray, Neighbours]]) -> Novelty | None:
    """Rank a volume by what was found for its slices: pairs of heights [B] and neighbours; None where nothing was."""
    heights = [float(height) for block, _ in trace for height in block]
    nearest = [found.similarity.max(1, initial=-np.inf, where=found.rows >= 0) for _, found in trace]
    return novelty(heights, np.concatenate(nearest), bank.scores.values()) if nearest else None


def slices_of_trace(retriever: Retriever) -> dict[str, list[dict[str, Any]]]:
    """Return the neighbours by slice number. Of a slice's windows the first one's are kept."""
    heights = [float(h) for block, _ in retriever.trace for h in block]
    index_of = {height: index for index, height in enumerate(sorted(set(heights)))}
    slices: dict[int, list[dict[str, Any]]] = {}
    for block, found in retriever.trace:
        for position, height in enumerate(block):
            slices.setdefault(index_of[float(height)], _neighbours(retriever.bank, found, position))
    return {str(index): slices[index] for index in sorted(slices)}


def _neighbours(bank: Bank, found: Neighbours, position: int) -> list[dict[str, Any]]:
    # Candidates that were left out have no weight.
    rows = [int(row) for row, weight in zip(found.rows[position], found.weights[position], strict=True) if weight > 0]
    return [
        {
            "patient": str(bank.patients[row]),
            "case": str(bank.cases[row]),
            "slice": int(bank.slices[row]),
            "similarity": round(float(found.similarity[position, rank]), 4),
            "weight": round(float(found.weights[position, rank]), 4),
            "row": row,
        }
        for rank, row in enumerate(rows)
    ]
