"""The retriever: for each query slice the nearest labelled slices of other patients, and how far each is trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ragsam.errors import InputError
from ragsam.networks.supports import Supports
from ragsam.retrieval.agreement import Agreement
from ragsam.retrieval.agreement_measurement import measured_agreement
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.descriptors import DESCRIPTORS
from ragsam.retrieval.label_transfer import best_matches, matching_image, transfer_labels
from ragsam.retrieval.store import STORES, VectorStore, make_store


@dataclass(frozen=True)
class Neighbours:
    """What a search found: rows of the bank [B, k], -1 where absent, cosines [B, k], weights [B, k].

    Candidates that were looked at and left out have weight 0.
    """

    rows: np.ndarray
    similarity: np.ndarray
    weights: np.ndarray


class Retriever:
    """Finds supports in a bank.

    Args:
        descriptor: name in `DESCRIPTORS`.
        neighbours: supports a query (k).
        temperature: neighbours are weighted by softmax(cosine / temperature).
        store: how the bank is searched: a name in `STORES`, or auto, by the bank's size.
        carry: whether the neighbours' labels are transferred by matching patches, see `label_transfer`. The k
            neighbours are then chosen from 2 k candidates by the match, and a weight is what a neighbour contributes.
            Otherwise labels are copied pixel by pixel.
        memory: False; runs of earlier versions name it, whose network could look at its neighbours' embeddings.
        weigh: whether the network looks at how far the bank's vote can be trusted, and how it is to be counted.

    Attributes:
        bank: where it looks; None until one is attached.
        keeps: what a bank of its making holds beside the labels: "images" where labels are transferred.
    """

    def __init__(
        self,
        *,
        descriptor: str,
        neighbours: int,
        carry: bool,
        temperature: float = 0.05,
        store: str = "auto",
        memory: bool = False,
        weigh: bool = False,
    ) -> None:
        if memory:
            raise InputError("fusion memory was removed, since it came out behind; train with vote_product")
        if descriptor not in DESCRIPTORS:
            raise InputError(f"descriptor {descriptor!r} is unknown; choose one of {', '.join(DESCRIPTORS)}")
        if store not in ("auto", *STORES):
            raise InputError(f"store {store!r} is unknown; choose auto or one of {', '.join(STORES)}")
        self.descriptor = descriptor
        self.store = store
        self.neighbours = neighbours
        self.temperature = temperature
        self.carry = carry
        self.weigh = weigh
        self.keeps = ("images",) if carry else ()
        self.bank: Bank | None = None
        self._store: VectorStore | None = None
        self._agreement: Agreement | None = None

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
        self.bank = bank
        self._store = make_store(bank.descriptors, self.store)
        self._agreement = bank.agreement

    def detach(self) -> None:
        """Let the bank go: its files stay open as long as something has it."""
        self.bank = self._store = self._agreement = None

    def build(self, batches: Iterable[Mapping[str, Any]], fit: dict[str, Any], encode: Any = None) -> Bank:
        """Make a bank of a loader's batches {"image", "label", "patient", "case", "slice", "height"} and attach it.

        Args:
            fit: what the bank is made for, see `Bank`.
            encode: image [B, 3, H, W] to embedding [B, C, h, w]; needed by descriptors that look at it.
        """
        bank = Bank.collect(self.described(batches, encode), fit, self.keeps)
        self.attach(bank)
        return bank

    def described(self, batches: Iterable[Mapping[str, Any]], encode: Any = None) -> Iterator[dict[str, Any]]:
        """Make of a loader's batches those of a bank: descriptors and images beside the labels.

        Args:
            batches, encode: see `build`.
        """
        for batch in batches:
            embedding = encode(batch["image"]) if self.needs_embedding else None
            vectors = self.describe(batch["image"], embedding, batch["height"])
            rows = {**batch, "descriptor": vectors, "label": batch["label"][:, 0].numpy()}
            rows["image"] = (matching_image(batch["image"]) * 255).round().byte().cpu().numpy()
            yield rows

    def find(
        self,
        image: Tensor,
        embedding: Tensor | None,
        height: Tensor,
        queries: Sequence[tuple[str | None, str | None]],
    ) -> Neighbours:
        """Return the nearest slices of other patients, see `search`.

        Args:
            image: [B, 3, H, W], float, 0-1.
            embedding: [B, C, h, w], of the encoder; looked at where `needs_embedding` says so.
            height: [B], float, 0-1.
            queries: (patient, case) of each slice; see `Bank.own_patients`.
        """
        own = {query: self.bank.own_patients(*query) for query in set(queries)}
        return self.search(self.describe(image, embedding, height), [own[query] for query in queries])

    def search(
        self, vectors: np.ndarray, own: Sequence[set[str]], allowed: Sequence[np.ndarray | None] | None = None
    ) -> Neighbours:
        """Return the nearest slices of other patients: k, or 2 k candidates where labels are transferred.

        Args:
            vectors: [B, D], unit.
            own: for each query the pseudonyms of its own patient.
            allowed: for each query the rows that it may find, as a mask [N], instead of those of other patients.

        Returns:
            Neighbours; a query without any neighbour has rows -1 and weights 0.
        """
        if allowed is None:
            masks = {patients: self.bank.allowed(without=patients) for patients in map(frozenset, own)}
            allowed = [masks[frozenset(patients)] for patients in own]
        cosines, rows = self._store.search(vectors, self.neighbours * (2 if self.carry else 1), allowed)
        there = rows >= 0
        found = Neighbours(rows, np.where(there, cosines, 0.0).astype(float), np.zeros(rows.shape))
        for index, chosen in enumerate(there):
            found.weights[index, chosen] = _softmax(found.similarity[index, chosen] / self.temperature)
        return found

    def supports(
        self,
        found: Neighbours,
        image: Tensor,
        alter: Callable[[Tensor, Tensor, np.ndarray], tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Supports, Neighbours]:
        """Read what a search found for slices [B, 3, S, S], and transfer its labels to them if asked for.

        Args:
            alter: changes candidates' images [B, m, s, s] and labels [B, m, S, S], those of rows [B, m], alike before
                they are looked at.

        Returns:
            The supports, on the slices' device, and the neighbours with the weights that they got, the greatest first.
        """
        if not self.carry or not (found.rows >= 0).any():
            return self._pixel_on_pixel(found).to(image.device), found
        bank, device = self.bank, image.device
        query = matching_image(image).nan_to_num(0.0)  # a slice that is not finite finds nothing
        images = _read(bank.images, found.rows).to(device).float() / 255
        there = torch.from_numpy(found.rows >= 0).to(device)
        if alter is not None:
            images, altered = alter(images, _read(bank.labels, found.rows).to(device), found.rows)
        count = min(self.neighbours, found.rows.shape[1])
        chosen, shifts, likeness = best_matches(query, images, there, count)
        rows = np.take_along_axis(found.rows, chosen.cpu().numpy(), 1)
        labels = _read(bank.labels, rows).to(device) if alter is None else _chosen(altered, chosen)
        annotated = self._annotated(rows)
        classes = bank.present.shape[1]
        sound = there.any(1)
        transferred = transfer_labels(
            query,
            _chosen(images, chosen),
            labels,
            shifts,
            likeness.where(sound[:, None], 0.0),  # one without any is left out below
            classes,
            None if annotated is None else annotated.to(device)[..., :classes],
        )
        weights = transferred.weights * sound[:, None]
        supports = Supports(
            labels,
            weights,
            annotated,
            transferred.vote * sound[:, None, None, None],
            patients=bank.patient_count,
            neighbours=there.sum(1).clamp_max(count),
        )
        every = torch.zeros(found.rows.shape, device=device).scatter(1, chosen, weights)
        return supports.to(device), _ordered(found, every.cpu().numpy().astype(float))

    def _pixel_on_pixel(self, found: Neighbours) -> Supports:
        """Return the neighbours' labels as they are."""
        return Supports(
            _read(self.bank.labels, found.rows),
            torch.from_numpy(found.weights).float(),
            self._annotated(found.rows),
            patients=self.bank.patient_count,
            neighbours=torch.from_numpy(found.rows >= 0).sum(1),
        )

    def weighed(self, supports: Supports) -> Supports:
        """Return supports with how far the bank's vote can be trusted, where the network looks at that."""
        if not self.weigh:
            return supports
        trust = torch.tensor(self.agreement.trust, device=supports.weights.device)
        return replace(supports, trust=trust, boost=self.agreement.boost)

    @property
    def agreement(self) -> Agreement:
        """How well the bank agrees with itself: as its manifest says, else as measured at the first call."""
        if self._agreement is None:
            self._agreement = measured_agreement(self.bank, self._ask)
        return self._agreement

    def _ask(self, rows: np.ndarray, allowed: Sequence[np.ndarray | None]) -> tuple[Supports, np.ndarray]:
        """Return the supports of slices of the bank itself, found among the allowed rows, and the neighbours' rows."""
        found = self.search(self.bank.descriptors[rows], [set()] * len(rows), allowed)
        if self.bank.images is None:
            images = torch.zeros(len(rows), 1, 1)
        else:
            images = torch.from_numpy(np.asarray(self.bank.images[rows])).float() / 255
        supports, near = self.supports(found, images[:, None])
        return supports, np.where(near.weights > 0, near.rows, -1)

    def _annotated(self, rows: np.ndarray) -> Tensor | None:
        """Return the classes that the neighbours of these rows annotate; of row -1 what does not matter."""
        return None if self.bank.annotated is None else torch.from_numpy(self.bank.annotated[rows])


def _read(array: Any, rows: np.ndarray) -> Tensor:
    """Return the rows [B, k] of an array [N, H, W] as [B, k, H, W]; zeros for row -1."""
    content = np.zeros((*rows.shape, *array.shape[1:]), array.dtype)
    there = rows >= 0
    content[there] = array[rows[there]]
    return torch.from_numpy(content)


def _chosen(candidates: Tensor, chosen: Tensor) -> Tensor:
    """Return those of pictures [B, m, H, W] that `chosen` [B, k] names."""
    return candidates[torch.arange(len(chosen), device=chosen.device)[:, None], chosen]


def _ordered(found: Neighbours, weights: np.ndarray) -> Neighbours:
    """Give neighbours other weights, and put those with the greatest first."""
    order = np.argsort(-weights, axis=1, kind="stable")
    parts = (found.rows, found.similarity, weights)
    return Neighbours(*(np.take_along_axis(part, order, 1) for part in parts))


def _softmax(values: np.ndarray) -> np.ndarray:
    if len(values) == 0:
        return values
    powers = np.exp(values - values.max())
    return powers / powers.sum()
