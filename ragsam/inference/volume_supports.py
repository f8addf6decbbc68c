"""The supports of one volume's slices: found while it is segmented, and kept to be reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ragsam.errors import InputError
from ragsam.networks.supports import Supports
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.novelty import Novelty, novelty
from ragsam.retrieval.retriever import Neighbours, Retriever
from ragsam.transforms.layout import orientation_of


class VolumeSupports:
    """Finds the supports of a volume's slices, the slices of its own patient left out.

    Args:
        retriever: with a bank attached.
        patient, case: of the volume; None if one is not known.

    Attributes:
        trace: what was found so far: pairs of heights [B] and neighbours of as many slices.
    """

    def __init__(self, retriever: Retriever, patient: str | None, case: str | None) -> None:
        self.retriever = retriever
        self.query = (patient, case)
        self.trace: list[tuple[np.ndarray, Neighbours]] = []

    @property
    def needs_embedding(self) -> bool:
        """Whether slices are described by the encoder's embedding."""
        return self.retriever.needs_embedding

    def __call__(self, image: Tensor, embedding: Tensor | None, height: Tensor) -> Supports:
        """Return the supports of slices.

        Args:
            image: [B, 3, S, S], float, 0-1.
            embedding: [B, C, h, w], of the encoder; looked at where it is needed.
            height: [B], float, 0-1, the slices' positions along the body.
        """
        with torch.autocast(image.device.type, enabled=False):  # likeness is a matter of small differences
            found = self.find(image, embedding, height)
            supports, found = self.retriever.supports(found, image)
            self.trace.append((height.cpu().numpy(), found))
            return self.retriever.weighed(supports)

    def require_orientation(self, volume: Tensor) -> None:
        """Refuse a bank of files' own slices for a volume [1, H, W, D] whose file stores its axes in other directions.

        Raises:
            InputError: its slices are turned or mirrored against the bank's.
        """
        wanted = self.retriever.bank.fit.get("orientation")
        found = orientation_of(volume)
        if wanted not in (None, found):
            case = self.query[1] or "volume"
            told = f"{case}: its file's slices are laid out as {found}, those of the bank as {wanted}"
            raise InputError(f"{told}; store it alike, or segment it without retrieval (--no-retrieval)")

    def find(self, image: Tensor, embedding: Tensor | None, height: Tensor) -> Neighbours:
        """Return the neighbours alone, without noting them."""
        with torch.autocast(image.device.type, enabled=False):
            embedding = None if embedding is None else embedding.float()
            return self.retriever.find(image, embedding, height, [self.query] * len(image))

    def novelty(self) -> Novelty | None:
        """Rank the volume by what was found for its slices; None if nothing was."""
        heights = [float(height) for block, _ in self.trace for height in block]
        nearest = [found.similarity.max(1, initial=-np.inf, where=found.rows >= 0) for _, found in self.trace]
        return novelty(heights, np.concatenate(nearest), self.retriever.bank.scores.values())

    def by_slice(self) -> dict[str, list[dict[str, Any]]]:
        """Return the neighbours that voted, by slice number. Of a slice's windows the first one's are kept."""
        heights = np.unique(np.concatenate([block for block, _ in self.trace]))
        slices: dict[int, list[dict[str, Any]]] = {}
        for block, found in self.trace:
            for position, number in enumerate(np.searchsorted(heights, block).tolist()):
                if number not in slices:
                    slices[number] = _told(self.retriever.bank, found, position)
        return {str(number): slices[number] for number in sorted(slices)}


def _told(bank: Bank, found: Neighbours, position: int) -> list[dict[str, Any]]:
    """Return the neighbours of one slice; candidates that were left out have no weight."""
    told = []
    columns = (found.rows[position], found.similarity[position], found.weights[position])
    for row, similarity, weight in zip(*columns, strict=True):
        if weight > 0:
            told.append(
                {
                    "patient": str(bank.patients[row]),
                    "case": str(bank.cases[row]),
                    "slice": int(bank.slices[row]),
                    "similarity": round(float(similarity), 4),
                    "weight": round(float(weight), 4),
                    "row": int(row),
                }
            )
    return told
