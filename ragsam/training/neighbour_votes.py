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
    """Gives training slices the vote of other patients' slices, as `SliceDataset.vote`.

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
        self._kept: dict[tuple[str, int], dict[str, Tensor]] = {}
        self._bytes = 0

    @torch.no_grad()
    def __call__(self, items: Sequence[Mapping[str, Any]], repeats: Sequence[bool]) -> list[dict[str, Tensor]]:
        """Return what the neighbours say of items {"image" [C, S, S], "height", "patient", "case", "slice"}.

        Args:
            repeats: for each item whether its case and slice always come as they do now.

        Returns:
            {"vote": [K + 1, S, S], float}, zeros standing for no neighbour; where the network looks at neighbours
            themselves with "neighbours" [k], rows of the bank, and their "weights" [k], the own patient's being 0.
        """
        said = [self._kept.get((item["case"], item["slice"])) for item in items]
        said = [entries if again else None for entries, again in zip(said, repeats, strict=True)]
        missing = [index for index, entries in enumerate(said) if entries is None]
        for start in range(0, len(missing), TOGETHER):
            part = missing[start : start + TOGETHER]
            found = self._find([items[index] for index in part])
            for place, index in enumerate(part):
                said[index] = {name: values[place].clone() for name, values in found.items()}
                if repeats[index]:
                    self._keep(items[index], said[index])
        return [{**entries, "vote": entries["vote"].float() / 255} for entries in said]

    def _find(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return what `__call__` does, for a batch, the votes as bytes."""
        image = torch.stack([item["image"] for item in items]).float()
        height = torch.tensor([item["height"] for item in items], dtype=torch.float32)
        embedding = self.encode(image) if self.encode is not None else None
        vectors = self.retriever.describe(image, embedding, height)
        found = self.retriever.search(vectors, [set()] * len(items), [self._allowed(item) for item in items])
        supports, near = self.retriever.supports(found, image, self._altering(items) if self.few else None)
        vote = resize_prior(label_prior(supports, self.num_classes), tuple(image.shape[2:]))
        said = {"vote": (vote * 255).round().byte()}
        if self.retriever.memory:
            rows, weights = (part[:, : self.retriever.neighbours] for part in (near.rows, near.weights))
            others = [~np.isin(self.bank.patients[row], self._own(item)) for row, item in zip(rows, items, strict=True)]
            said |= {"neighbours": torch.from_numpy(rows), "weights": torch.from_numpy(weights * others).float()}
        return said

    def _own(self, item: Mapping[str, Any]) -> list[str]:
        return list(self.bank.own_patients(item["patient"], None))

    def _keep(self, item: Mapping[str, Any], entries: dict[str, Tensor]) -> None:
        size = sum(tensor.nbytes for tensor in entries.values())
        if self.keeps and self._bytes + size <= KEPT_BYTES:
            self._kept[item["case"], item["slice"]] = entries
            self._bytes += size

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
                mine = torch.from_numpy(np.isin(self.bank.patients[rows[index]], self._own(item)))
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
