"""The retriever: for each query slice the nearest labelled slices of other patients, and how far each is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ragsam.networks.supports import Supports
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.descriptors import DESCRIPTORS
from ragsam.retrieval.store import STORES, VectorStore, make_store


@dataclass(frozen=True)
class Neighbours:
    """What a search found: rows of the bank [B, k], -1 where there is none, cosines [B, k], weights [B, k]."""

    rows: np.ndarray
    similarity: np.ndarray
    weights: np.ndarray


class Retriever:
    """Finds supports in a bank. As a network's `lookup` it is called inside the forward pass.

    Args:
        descriptor: name in `DESCRIPTORS`.
        neighbours: supports a query (k).
        temperature: neighbours are weighted by softmax(cosine / temperature).
        store: how the bank is searched: a name in `STORES`, or auto, by the bank's size.

    Attributes:
        bank: where it looks; None until one is attached, and then every query comes back without supports.
        keeps: of "images" and "embeddings" those that a bank of its making holds beside the labels.
        query: (patient, case) of the volume at hand, whose own slices are left out; set before a volume is segmented.
        trace: what was found, by lookup, when `record` is set.
    """

    def __init__(
        self,
        *,
        descriptor: str = "thumbnail",
        neighbours: int = 8,
        temperature: float = 0.05,
        store: str = "auto",
    ) -> None:
        if descriptor not in DESCRIPTORS:
            raise ValueError(f"descriptor {descriptor!r} is unknown; choose one of {', '.join(DESCRIPTORS)}")
        if store not in ("auto", *STORES):
            raise ValueError(f"store {store!r} is unknown; choose auto or one of {', '.join(STORES)}")
        self.descriptor = descriptor
        self.store = store
        self.neighbours = neighbours
        self.temperature = temperature
        self.keeps: tuple[str, ...] = ()
        self.bank: Bank | None = None
        self.query: tuple[str | None, str | None] = (None, None)
        self.record = False
        self.trace: list[tuple[np.ndarray, Neighbours]] = []
        self._store: VectorStore | None = None

    @property
    def needs_embedding(self) -> bool:
        """Whether queries are described by the encoder's embedding."""
        return DESCRIPTORS[self.descriptor].needs_embedding

    def describe(self, image: Tensor, embedding: Tensor | None, height: Tensor) -> np.ndarray:
        """Return unit descriptors [B, D] of slices [B, 3, H, W] at heights [B]."""
        with torch.no_grad():
            vectors = DESCRIPTORS[self.descriptor].describe(image, embedding, height)
        return vectors.float().cpu().numpy()

    def attach(self, bank: Bank) -> None:
        """Search in `bank` from now on."""
        self.bank, self._store = bank, make_store(bank.descriptors, self.store)

    def build(self, batches: Iterable[Mapping[str, Any]], fit: dict[str, Any], encode: Any = None) -> Bank:
        """Make a bank of a loader's batches {"image", "label", "patient", "case", "slice", "height"} and attach it.

        Args:
            fit: what the bank is made for, see `Bank`.
            encode: image [B, 3, H, W] to embedding [B, C, h, w]; needed by descriptors that look at it.
        """
        bank = Bank.collect(self.described(batches, encode, self.keeps), fit, self.keeps)
        self.attach(bank)
        return bank

    def described(
        self, batches: Iterable[Mapping[str, Any]], encode: Any = None, keeps: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Make of a loader's batches those of a bank: descriptors beside the labels, and what it keeps.

        Args:
            batches, encode: see `build`.
            keeps: of "images" and "embeddings" those that the bank holds.
        """
        for batch in batches:
            embedding = encode(batch["image"]) if self.needs_embedding or "embeddings" in keeps else None
            image, vectors = batch["image"], self.describe(batch["image"], embedding, batch["height"])
            rows = {**batch, "descriptor": vectors, "label": batch["label"][:, 0].numpy()}
            rows["image"] = (image[:, image.shape[1] // 2] * 255).round().byte().cpu().numpy()
            rows["embedding"] = None if embedding is None else embedding.half().cpu().numpy()
            yield rows

    def search(self, vectors: np.ndarray, own: Sequence[set[str]]) -> Neighbours:
        """Return the nearest slices of other patients.

        Args:
            vectors: [B, D], unit.
            own: for each query the pseudonyms of its own patient.

        Returns:
            Neighbours; a query without any neighbour has rows -1 and weights 0.
        """
        masks = {patients: self.bank.allowed(without=patients) for patients in map(frozenset, own)}
        cosines, rows = self._store.search(vectors, self.neighbours, [masks[frozenset(patients)] for patients in own])
        there = rows >= 0
        found = Neighbours(rows, np.where(there, cosines, 0.0).astype(float), np.zeros(rows.shape))
        for index, chosen in enumerate(there):
            found.weights[index, chosen] = _softmax(found.similarity[index, chosen] / self.temperature)
        return found

    def supports(self, found: Neighbours, device: torch.device) -> Supports:
        """Read the label slices that a search found."""
        labels = np.zeros((*found.rows.shape, *self.bank.labels.shape[1:]), np.uint8)
        there = found.rows >= 0
        labels[there] = self.bank.labels[found.rows[there]]
        supports = Supports(torch.from_numpy(labels), torch.from_numpy(found.weights).float())
        if self.bank.annotated is not None:
            # Row -1, no neighbour, reads the last one's; its weight is 0.
            supports.annotated = torch.from_numpy(self.bank.annotated[found.rows])
        return supports.to(device)

    def __call__(self, image: Tensor, embedding: Tensor, height: Tensor) -> Supports | None:
        """Return the supports of the slices of the volume at hand, or None without a bank."""
        if self.bank is None:
            return None
        own = self.bank.own_patients(*self.query)
        found = self.search(self.describe(image, embedding, height), [own] * len(image))
        if self.record:
            self.trace.append((height.cpu().numpy(), found))
        return self.supports(found, image.device)


def _softmax(values: np.ndarray) -> np.ndarray:
    if len(values) == 0:
        return values
    powers = np.exp(values - values.max())
    return powers / powers.sum()
