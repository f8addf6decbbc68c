"""The vote of each training slice's neighbours, found before augmentation and augmented with the slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ragsam.networks.supports import label_prior, resize_prior
from ragsam.retrieval.bank import pseudonym
from ragsam.retrieval.retriever import Retriever

#: With so few training patients a slice's own patient votes too: without it too little of the bank would be left.
FEW = 3
#: Slices of the same volume nearer than this do not vote: they would give the answer away.
NEAR = 3
#: The most by which slices of the same patient are altered: degrees, and shares of the size.
ANGLE, SCALE, SHIFT = 12.0, 0.15, 0.06
MOST_KEPT_BYTES = 2**29
#: Slices whose neighbours are found at once.
BATCH_SIZE = 8


class SliceVotes:
    """Gives training slices the vote of other patients' slices, for `SliceDataset.vote_by`.

    The vote of a slice that comes again unaltered is kept, unless it depends on an encoder that is trained. If the bank
    holds `FEW` patients or less, distant slices of the same patient vote too, rotated, shifted and scaled at random.
    They stand in for one more patient, which a bank has for patients who are not in it.

    Args:
        retriever: with a bank attached.
        num_classes: with background.
        encode: images [B, C, S, S] to embeddings, for descriptors that use them.
        frozen: whether the encoder is no longer trained.
    """

    def __init__(
        self,
        retriever: Retriever,
        num_classes: int,
        encode: Callable[[Tensor], Tensor] | None = None,
        *,
        frozen: bool = False,
    ) -> None:
        self.retriever = retriever
        self.num_classes = num_classes
        self.encode = encode
        self.keeps = frozen or encode is None
        self.bank = retriever.bank
        self.few = retriever.bank.patient_count <= FEW
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._bytes = 0

    @torch.no_grad()
    def __call__(self, items: Sequence[Mapping[str, Any]], repeats: Sequence[bool]) -> list[Tensor]:
        """Return the neighbours' votes for items {"image" [C, S, S], "height", "patient", "case", "slice"}.

        Args:
            repeats: for each item whether its case and slice always come unaltered.

        Returns:
            Votes [K + 1, S, S], float, zeros without neighbours.
        """
        votes: dict[int, Tensor] = {}
        missing = []
        for index, (item, again) in enumerate(zip(items, repeats, strict=True)):
            key = (item["case"], item["slice"])
            if again and key in self._kept:
                votes[index] = self._kept[key]
            else:
                missing.append(index)
        for start in range(0, len(missing), BATCH_SIZE):
            part = missing[start : start + BATCH_SIZE]
            found = self._find([items[index] for index in part])
            for index, vote in zip(part, found, strict=True):
                votes[index] = vote.clone()
                if repeats[index]:
                    self._keep(items[index], votes[index])
        return [votes[index].float() / 255 for index in range(len(items))]

    def _find(self, items: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return the votes [B, K + 1, S, S] for a batch of items, as bytes."""
        image = torch.stack([item["image"] for item in items]).float()
        height = torch.tensor([item["height"] for item in items], dtype=torch.float32)
        embedding = None
        if self.encode is not None:
            embedding = self.encode(image)
        vectors = self.retriever.describe(image, embedding, height)
        allowed = [self._allowed(item) for item in items]
        found = self.retriever.search(vectors, [set()] * len(items), allowed)
        alter = None
        if self.few:
            alter = partial(self._alter, items)
        supports, _ = self.retriever.supports(found, image, alter)
        vote = resize_prior(label_prior(supports, self.num_classes), tuple(image.shape[2:]))
        return (vote * 255).round().byte()

    def _keep(self, item: Mapping[str, Any], vote: Tensor) -> None:
        if self.keeps and self._bytes + vote.nbytes <= MOST_KEPT_BYTES:
            self._kept[item["case"], item["slice"]] = vote
            self._bytes += vote.nbytes

    def _allowed(self, item: Mapping[str, Any]) -> np.ndarray | None:
        bank = self.bank
        if not self.few:
            return bank.allowed(without=bank.own_patients(item["patient"], None))
        own = bank.cases == pseudonym(item["case"], bank.salt, "c")
        return ~(own & (np.abs(bank.slices - item["slice"]) < NEAR))

    def _alter(
        self, items: Sequence[Mapping[str, Any]], images: Tensor, labels: Tensor, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Alter the images [B, m, s, s] and labels [B, m, S, S] of each item's own patient alike."""
        maps = torch.eye(2, 3).repeat(*rows.shape, 1, 1)
        for index, item in enumerate(items):
            own = self.bank.own_patients(item["patient"], None)
            mine = torch.from_numpy(np.isin(self.bank.patients[rows[index]], list(own)))
            maps[index, mine] = _maps(int(mine.sum()), seed=item["slice"])
        return _moved(images, maps, "bilinear"), _moved(labels, maps, "nearest")


def _maps(count: int, seed: int) -> Tensor:
    """Return affine maps [count, 2, 3] that rotate, scale and shift at random."""
    draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    angle = draw[:, 0] * ANGLE * pi / 180
    scale = 1 + draw[:, 1] * SCALE
    first = torch.stack([angle.cos() * scale, -angle.sin() * scale, 2 * SHIFT * draw[:, 2]], dim=1)
    second = torch.stack([angle.sin() * scale, angle.cos() * scale, 2 * SHIFT * draw[:, 3]], dim=1)
    return torch.stack([first, second], dim=1)


def _moved(x: Tensor, maps: Tensor, mode: str) -> Tensor:
    """Move images [B, m, H, W] by affine maps [B, m, 2, 3]."""
    flat = x.flatten(0, 1)[:, None].float()
    grid = F.affine_grid(maps.flatten(0, 1).to(x.device), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, mode, align_corners=False).view(x.shape).to(x.dtype)
