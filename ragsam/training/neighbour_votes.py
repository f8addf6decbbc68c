"""The vote of each training slice's neighbours, found on the slice as it is, to be augmented together with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ragsam.networks.supports import label_prior, resize_prior
from ragsam.retrieval.bank import pseudonym
from ragsam.retrieval.retriever import Retriever

#: Of so few training patients the own one's slices vote too: without them a slice would have but half of the bank.
FEW = 3
#: Slices of the own volume nearer than this are left out: they would give the answer away.
NEAR = 3
#: How far copies of the own patient's slices are altered: degrees, and shares of the size.
ANGLE, SCALE, SHIFT = 12.0, 0.15, 0.06
KEPT_BYTES = 2**29
#: Slices whose neighbours are found at once.
TOGETHER = 8


class SliceVotes:
    """Gives training slices the vote of other patients' slices, for `SliceDataset.vote_by`.

    The vote of a slice that comes again unaltered is kept, unless an encoder that moves finds it. Where the bank
    holds `FEW` patients or less, the own patient's distant slices vote too, altered at random: turned, shifted, and of
    another size. They stand in for one patient more, as a bank has for patients who are not in it.

    Args:
        retriever: with a bank attached.
        num_classes: with background.
        encode: images [B, C, S, S] to embeddings, for descriptors that look at them.
        frozen: whether that gives the same for the same slice every time.
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
        """Return what the neighbours say of items {"image" [C, S, S], "height", "patient", "case", "slice"}.

        Args:
            repeats: for each item whether its case and slice always come as they do now.

        Returns:
            Votes [K + 1, S, S], float, zeros standing for no neighbour.
        """
        votes: dict[int, Tensor] = {}
        for index, (item, again) in enumerate(zip(items, repeats, strict=True)):
            if again and (item["case"], item["slice"]) in self._kept:
                votes[index] = self._kept[item["case"], item["slice"]]
        missing = [index for index in range(len(items)) if index not in votes]
        for start in range(0, len(missing), TOGETHER):
            part = missing[start : start + TOGETHER]
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
        embedding = self.encode(image) if self.encode is not None else None
        vectors = self.retriever.describe(image, embedding, height)
        found = self.retriever.search(vectors, [set()] * len(items), [self._allowed(item) for item in items])
        supports, _ = self.retriever.supports(found, image, self._altering(items) if self.few else None)
        vote = resize_prior(label_prior(supports, self.num_classes), tuple(image.shape[2:]))
        return (vote * 255).round().byte()

    def _keep(self, item: Mapping[str, Any], vote: Tensor) -> None:
        if self.keeps and self._bytes + vote.nbytes <= KEPT_BYTES:
            self._kept[item["case"], item["slice"]] = vote
            self._bytes += vote.nbytes

    def _allowed(self, item: Mapping[str, Any]) -> np.ndarray | None:
        bank = self.bank
        if not self.few:
            return bank.allowed(without=bank.own_patients(item["patient"], None))
        own = bank.cases == pseudonym(item["case"], bank.salt, "c")
        return ~(own & (np.abs(bank.slices - item["slice"]) < NEAR))

    def _altering(
        self, items: Sequence[Mapping[str, Any]]
    ) -> Callable[[Tensor, Tensor, np.ndarray], tuple[Tensor, Tensor]]:
        """Return what alters images [B, m, s, s] and labels [B, m, S, S] of each item's own patient alike."""

        def alter(images: Tensor, labels: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            maps = torch.eye(2, 3).repeat(*rows.shape, 1, 1)
            for index, item in enumerate(items):
                own = self.bank.own_patients(item["patient"], None)
                mine = torch.from_numpy(np.isin(self.bank.patients[rows[index]], list(own)))
                maps[index, mine] = _maps(int(mine.sum()), seed=item["slice"])
            return _moved(images, maps, "bilinear"), _moved(labels, maps, "nearest")

        return alter


def _maps(count: int, seed: int) -> Tensor:
    """Return affine maps [count, 2, 3] that turn, scale and shift at random."""
    draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    angle, scale = draw[:, 0] * ANGLE * pi / 180, 1 + draw[:, 1] * SCALE
    first = torch.stack([angle.cos() * scale, -angle.sin() * scale, 2 * SHIFT * draw[:, 2]], dim=1)
    second = torch.stack([angle.sin() * scale, angle.cos() * scale, 2 * SHIFT * draw[:, 3]], dim=1)
    return torch.stack([first, second], dim=1)


def _moved(x: Tensor, maps: Tensor, mode: str) -> Tensor:
    """Move pictures [B, m, H, W] by affine maps [B, m, 2, 3]."""
    flat = x.flatten(0, 1)[:, None].float()
    grid = F.affine_grid(maps.flatten(0, 1).to(x.device), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, mode, align_corners=False).view(x.shape).to(x.dtype)
