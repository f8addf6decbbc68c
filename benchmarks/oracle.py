"""Neighbours that an oracle finds: the slices whose labels overlap most with the query's own reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from label_vote import centred_labels
from numpy.typing import NDArray
from torch import Tensor

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.data.slices import SliceDataset
from ragsam.retrieval.retriever import Neighbours, Retriever
from ragsam.transforms import preprocessing


class OracleRetriever(Retriever):
    """Finds by labels what others find by descriptors; as many slices as vote, so that nothing is left to choose.

    Two slices overlap by the mean Dice of the organs that either has, both slices' labels being moved so that their
    middle is that of the picture; where neither has any, by 1.

    Args:
        cases: with the queries' references.
        preparation: how the bank's slices are prepared; each must fit into a window.
        options: of `Retriever`.
    """

    def __init__(self, cases: Sequence[Case], preparation: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        card, names = load_card(preparation["card"]), ("window", "spacing_mm", "slice_axis")
        chain = preprocessing(**{name: preparation[name] for name in names})
        dataset = SliceDataset(cases, card, chain, image_size=preparation["image_size"])
        self.references: dict[str, list[NDArray[np.uint8]]] = {}
        for item in dataset:
            self.references.setdefault(item["case"], []).append(np.asarray(item["label"][0]).astype(np.uint8))
        self._wanted: list[NDArray[np.uint8]] | None = None
        self._masks: Tensor | None = None

    def find(
        self,
        image: Tensor,
        embedding: Tensor | None,
        height: Tensor,
        queries: Sequence[tuple[str | None, str | None]],
    ) -> Neighbours:
        """Return the slices of other patients that overlap most with the queries' own references."""
        self._wanted = []
        for place, (_, case) in zip(height.tolist(), queries, strict=True):
            reference = self.references[case]
            self._wanted.append(reference[round(place * (len(reference) - 1))])
        try:
            return super().find(image, embedding, height, queries)
        finally:
            self._wanted = None

    def search(
        self, vectors: np.ndarray, own: Sequence[set[str]], allowed: Sequence[np.ndarray | None] | None = None
    ) -> Neighbours:
        """Return the slices of other patients that overlap most, k a query; where the bank asks itself, the nearest."""
        if self._wanted is None:
            return super().search(vectors, own, allowed)
        classes = self.bank.present.shape[1]
        if self._masks is None:
            self._masks = torch.stack([centred_labels(labels, classes) for labels in np.asarray(self.bank.labels)])
        areas, rows, overlaps = self._masks.sum((2, 3)), [], []
        for labels, patients in zip(self._wanted, own, strict=True):
            mask = centred_labels(labels, classes)
            total = areas + mask.sum((1, 2))
            dice = 2 * (self._masks * mask).sum((2, 3)) / total.clamp_min(1e-6)
            either = total > 0
            overlap = torch.where(either.any(1), (dice * either).sum(1) / either.sum(1).clamp_min(1), 1.0)
            mine = np.isin(self.bank.patients, list(patients))
            overlap[torch.from_numpy(mine)] = -1.0
            found = overlap.topk(min(self.neighbours, len(overlap)))
            rows.append(torch.where(found.values >= 0, found.indices, -1).numpy())
            overlaps.append(found.values.clamp_min(0).numpy().astype(float))
        found = Neighbours(np.stack(rows), np.stack(overlaps), np.ones((len(rows), len(rows[0]))))
        found.weights[:] = (found.rows >= 0) / np.maximum((found.rows >= 0).sum(1, keepdims=True), 1)
        return found
