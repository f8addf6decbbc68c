"""The vote of each training slice's neighbours, found on the slice as it is, to be augmented together with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


class SliceVotes:
    """Gives training slices the vote of other patients' slices, as `SliceDataset.vote`.

    The vote of a slice that comes again unaltered is kept, unless the encoder, which moves, finds it. Where the bank
    holds `FEW` patients or less, the own patient's distant slices vote too, altered at random: turned, shifted, and of
    another size. They stand in for one patient more, as a bank has for patients who are not in it.

    Args:
        retriever: with a bank attached.
        num_classes: with background.
        encode: image [1, C, S, S] to embedding, for descriptors that look at it.
    """

    def __init__(
        self, retriever: Retriever, num_classes: int, encode: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.retriever = retriever
        self.num_classes = num_classes
        self.encode = encode
        self.bank = retriever.bank
        self.few = len(set(retriever.bank.patients)) <= FEW
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._bytes = 0

    @torch.no_grad()
    def __call__(self, item: Mapping[str, Any], repeats: bool) -> Tensor:
        """Return the vote [K + 1, S, S], float, of an item {"image" [C, S, S], "height", "patient", "case", "slice"}.

        Zeros stand for no neighbour.

        Args:
            repeats: whether this case and slice always come as they do now.
        """
        key, repeats = (item["case"], item["slice"]), repeats and self.encode is None
        if repeats and key in self._kept:
            return self._kept[key].float() / 255
        image = item["image"][None].float()
        height = torch.tensor([item["height"]], dtype=torch.float32)
        embedding = self.encode(image) if self.encode is not None else None
        vectors = self.retriever.describe(image, embedding, height)
        found = self.retriever.search(vectors, [set()], [self._allowed(item)])
        supports, _ = self.retriever.supports(found, image, self._altering(item) if self.few else None)
        vote = resize_prior(label_prior(supports, self.num_classes), tuple(image.shape[2:]))[0]
        vote = (vote * 255).round().byte()
        if repeats and self._bytes + vote.numel() <= KEPT_BYTES:
            self._kept[key], self._bytes = vote, self._bytes + vote.numel()
        return vote.float() / 255

    def _allowed(self, item: Mapping[str, Any]) -> np.ndarray | None:
        bank = self.bank
        if not self.few:
            return bank.allowed(without=bank.own_patients(item["patient"], None))
        own = bank.cases == pseudonym(item["case"], bank.salt, "c")
        return ~(own & (np.abs(bank.slices - item["slice"]) < NEAR))

    def _altering(self, item: Mapping[str, Any]) -> Callable[[Tensor, Tensor, np.ndarray], tuple[Tensor, Tensor]]:
        """Return what alters images [1, m, s, s] and labels [1, m, S, S] of the item's own patient alike."""
        own = list(self.bank.own_patients(item["patient"], None))

        def alter(images: Tensor, labels: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
            mine = torch.from_numpy(np.isin(self.bank.patients[rows], own)).flatten()
            maps = torch.eye(2, 3).repeat(len(mine), 1, 1)
            maps[mine] = _maps(int(mine.sum()), seed=item["slice"])
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
    """Move pictures [1, m, H, W] by affine maps [m, 2, 3]."""
    flat = x.flatten(0, 1)[:, None].float()
    grid = F.affine_grid(maps.to(x.device), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, mode, align_corners=False).view(x.shape).to(x.dtype)
