"""The frozen encoder: from an epoch on its embeddings are kept, and a training step costs the decoder alone."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ragsam.data.fixed_copies import FixedCopies
from ragsam.data.slices import SliceDataset
from ragsam.errors import InputError
from ragsam.inference.bank_building import encode_alone
from ragsam.networks.segmenter import Segmenter

logger = logging.getLogger(__name__)


class FrozenEncoder:
    """Freezes the image encoder from an epoch on, and puts kept embeddings into every training batch.

    From then on a slice comes as one of a few altered copies. A copy's embedding is kept in memory, float16, once it
    was encoded; copies that do not fit are encoded every time. Each copy is encoded alone: in a batch the last bits
    would depend on the other copies, and a resumed training would give other weights.

    The encoder's parameters still require gradients, by which a run knows what it has to keep. They get none, so that
    the optimizer skips them.

    Args:
        first_epoch: the first one with a frozen encoder, from 1 on.
        views: altered copies of each slice.
        seed: of the training; the copies depend on it.
        limit_gb: limit of the embeddings kept, GiB, in every process.

    Attributes:
        encoded, seconds: how many slices have been encoded so far, and the time that took.

    Raises:
        InputError: a number of copies or an epoch below 1; at the start, an epoch beyond the last.
    """

    def __init__(
        self,
        network: Segmenter,
        dataset: SliceDataset,
        *,
        first_epoch: int,
        views: int,
        seed: int = 0,
        limit_gb: float = 4.0,
    ) -> None:
        for option, number in (("frozen_views", views), ("frozen_from", first_epoch)):
            if type(number) is not int or number < 1:
                raise InputError(f"{option}: {number!r} is not a whole number from 1 on")
        self.network = network
        self.dataset = dataset
        self.first_epoch = first_epoch
        self.copies = FixedCopies(views, seed)
        self._frozen = False
        self.limit_bytes = int(limit_gb * 2**30)
        self.encoded = 0
        self.seconds = 0.0
        self._kept: dict[int, Tensor] = {}
        self._bytes = 0
        self._full = False

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, before the handlers that look at the encoder or at the batch's embeddings."""
        engine.add_event_handler(Events.STARTED, self.check)
        engine.add_event_handler(Events.EPOCH_STARTED, self.freeze)
        engine.add_event_handler(Events.ITERATION_STARTED, self.inject)

    def check(self, engine: Engine) -> None:
        """Check that the training comes to the first epoch with a frozen encoder."""
        require_epoch(self.first_epoch, engine.state.max_epochs)

    def freeze(self, engine: Engine) -> None:
        """Freeze the encoder if its epoch has come."""
        if engine.state.epoch < self.first_epoch or self._frozen:
            return
        self._frozen = True
        self.dataset.draw_copies(self.copies)
        for part in self.network.encoding_parts:
            for parameter in part.parameters():
                parameter.grad = None  # with zeros an optimizer would still apply decay and momentum
        copies = len(self.dataset) * self.copies.views
        logger.info("train: from epoch %d on the encoder is frozen; %d altered slices", engine.state.epoch, copies)

    def inject(self, engine: Engine) -> None:
        """Put the embeddings [B, C, h, w], float32, into a batch of copies."""
        batch: dict[str, Any] = engine.state.batch
        if "copy" not in batch:
            return
        embeddings = []
        for copy, image in zip(batch["copy"].tolist(), batch["image"], strict=True):
            embeddings.append(self._embedding(copy, image))
        batch["embedding"] = torch.stack(embeddings).float()

    def expect(self, draws: int) -> tuple[int, int]:
        """Return how many slices are encoded at most for so many draws, and the bytes kept by then; after the first."""
        if not self._kept:
            return draws, 0
        copies = len(self.dataset) * self.copies.views
        each = self._bytes // len(self._kept)
        kept = min(copies, self.limit_bytes // each)
        encoded = kept + draws * (copies - kept) // copies
        return min(draws, encoded), min(kept, draws) * each

    def _embedding(self, copy: int, image: Tensor) -> Tensor:
        """Return the embedding [C, h, w], float16, of a copy [C, S, S]."""
        if copy in self._kept:
            return self._kept[copy]
        start = time.monotonic()
        embedding = encode_alone(self.network, image[None])[0].half().cpu()
        self.encoded += 1
        self.seconds += time.monotonic() - start
        if self._bytes + embedding.nbytes <= self.limit_bytes:
            self._kept[copy] = embedding
            self._bytes += embedding.nbytes
        elif not self._full:
            self._full = True
            text = "train: embeddings of %d slices are all that frozen_gb holds; the others are encoded again and again"
            logger.warning(text, len(self._kept))
        return embedding


def require_epoch(first_epoch: int, epochs: int) -> None:
    """Check that a training comes to the first epoch with a frozen encoder.

    Raises:
        InputError: it does not.
    """
    if first_epoch > epochs:
        raise InputError(f"frozen_from: there is no epoch {first_epoch}, the last one is {epochs}")
