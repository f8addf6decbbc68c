"""The vote of each training slice's neighbours, found on the slice as it is, to be augmented together with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ragsam.networks.supports import label_prior
from ragsam.retrieval.bank import pseudonym
from ragsam.retrieval.retriever import Retriever

#: Of a lone patient, slices nearer than this are left out: they would give the answer away.
NEAR = 3
#: How far copies of a lone patient's slices are altered: degrees, and shares of the size.
ANGLE, SCALE, SHIFT = 12.0, 0.15, 0.06
KEPT_BYTES = 2**29


class SliceVotes:
    """Gives training slices the vote of other patients' slices, as `SliceDataset.vote`.

    The vote of a slice that comes again unaltered is kept, unless the encoder, which moves, finds it. Where the bank
    holds a single patient, that patient's own distant slices vote, altered at random: turned, shifted, and of another
    size.

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
        self.lone = len(set(retriever.bank.patients)) == 1
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
        supports, _ = self.retriever.supports(found, image, _altered(item["slice"]) if self.lone else None)
        vote = (label_prior(supports, self.num_classes)[0] * 255).round().byte()
        if repeats and self._bytes + vote.numel() <= KEPT_BYTES:
            self._kept[key], self._bytes = vote, self._bytes + vote.numel()
        return vote.float() / 255

    def _allowed(self, item: Mapping[str, Any]) -> np.ndarray | None:
        bank = self.retriever.bank
        if not self.lone:
            return bank.allowed(without=bank.own_patients(item["patient"], None))
        own = bank.cases == pseudonym(item["case"], bank.salt, "c")
        return ~(own & (np.abs(bank.slices - item["slice"]) < NEAR))


def _altered(seed: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what turns, scales and shifts neighbours' images [B, k, s, s] and labels [B, k, S, S] alike, at random."""

    def alter(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        count = images.shape[:2].numel()
        draw = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        angle, scale = draw[:, 0] * ANGLE * pi / 180, 1 + draw[:, 1] * SCALE
        rows = torch.stack([angle.cos() * scale, -angle.sin() * scale, 2 * SHIFT * draw[:, 2]], dim=1)
        other = torch.stack([angle.sin() * scale, angle.cos() * scale, 2 * SHIFT * draw[:, 3]], dim=1)
        maps = torch.stack([rows, other], dim=1).to(images.device)

        def moved(x: Tensor, mode: str) -> Tensor:
            flat = x.flatten(0, 1)[:, None].float()
            grid = F.affine_grid(maps, flat.shape, align_corners=False)
            return F.grid_sample(flat, grid, mode, align_corners=False).view(x.shape)

        return moved(images, "bilinear"), moved(labels, "nearest").to(labels.dtype)

    return alter
