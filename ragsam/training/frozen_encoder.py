"""The frozen encoder: from an epoch on it stands still, its embeddings are kept, and a step costs the decoder alone."""

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
from ragsam.training.epoch_checks import require_reached

logger = logging.getLogger(__name__)


class FrozenEncoder:
    """Freezes the image encoder from an epoch on, and puts kept embeddings into every training batch.

    From then on a slice comes as one of a few altered copies. A copy's embedding is kept in memory, float16, from when
    it first comes; what does not fit is encoded whenever it comes. Each copy is encoded alone: in a batch the last bits
    would depend on its neighbours, and a resumed training would end elsewhere.

    The encoder's parameters still require gradients, by which a run knows what it has to keep. They get none, and so
    the optimizer passes them over.

    Args:
        network: the segmenter that trains.
        dataset: the training slices.
        first_epoch: the first one in which the encoder stands still, from 1 on.
        views: altered copies of each slice.
        seed: of the training; the copies depend on it.
        limit_gb: bound of the embeddings kept, GiB, in every process.

    Attributes:
        encoded, seconds: how many slices have been encoded so far, and what that took.

    Raises:
        InputError: a number of copies below 1; when attached, an epoch below 1; at the start, one beyond the last.
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
        if type(views) is not int or views < 1:
            raise InputError(f"frozen_views: {views!r} is not a whole number from 1 on")
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
        require_reached(engine, "frozen_from", self.first_epoch)
        engine.add_event_handler(Events.EPOCH_STARTED, self.freeze)
        engine.add_event_handler(Events.ITERATION_STARTED, self.inject)

    def freeze(self, engine: Engine) -> None:
        """Freeze the encoder, where it is time and not done yet."""
        if engine.state.epoch < self.first_epoch or self._frozen:
            return
        self._frozen = True
        self.dataset.draw_copies(self.copies)
        for part in self.network.encoding_parts:
            for parameter in part.parameters():
                parameter.grad = None  # of zeros an optimizer would make decay and momentum
        copies = len(self.dataset) * self.copies.views
        logger.info("train: from epoch %d on the encoder is frozen; %d altered slices", engine.state.epoch, copies)

    def inject(self, engine: Engine) -> None:
        """Put the embeddings [B, C, h, w], float32, of the batch's copies into the batch, where it has any."""
        batch: dict[str, Any] = engine.state.batch
        if "copy" in batch:
            pairs = zip(batch["copy"].tolist(), batch["image"], strict=True)
            batch["embedding"] = torch.stack([self._embedding(copy, image) for copy, image in pairs]).float()

    def expect(self, draws: int) -> tuple[int, int]:
        """Return how many slices are encoded at most for so many draws, and the bytes kept by then; after the first."""
        if not self._kept:
            return draws, 0
        copies, each = len(self.dataset) * self.copies.views, self._bytes // len(self._kept)
        kept = min(copies, self.limit_bytes // each)
        return min(draws, kept + draws * (copies - kept) // copies), min(kept, draws) * each

    def _embedding(self, copy: int, image: Tensor) -> Tensor:
        """Return the embedding [C, h, w], float16, of a copy [C, S, S]."""
        if copy in self._kept:
            return self._kept[copy]
        start = time.monotonic()
        embedding = encode_alone(self.network, image[None])[0].half().cpu()
        self.encoded, self.seconds = self.encoded + 1, self.seconds + time.monotonic() - start
        if self._bytes + embedding.nbytes <= self.limit_bytes:
            self._kept[copy] = embedding
            self._bytes += embedding.nbytes
        elif not self._full:
            self._full = True
            told = "train: embeddings of %d slices are all that frozen_gb holds; the others are encoded again and again"
            logger.warning(told, len(self._kept))
        return embedding
