"""Mirroring of slices that keeps the names of sides right."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import RandomizableTransform
from torch import Tensor

from ragsam.errors import InputError


class RandMirrord(RandomizableTransform):
    """Mirrors a slice from left to right and swaps its left and right labels.

    Without the swap a mirrored right kidney would still be called right. The axis of a slice that runs from side to
    side is the item's "sides_axis", 0 or 1; without it the rows are taken to, as in coronal and axial slices of RAS.

    Args:
        pairs: label values (left, right) that change places, see a card's `left_right`.
        prob: probability of mirroring.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]] = (), prob: float = 0.5) -> None:
        super().__init__(prob)
        self.pairs = [(int(left), int(right)) for left, right in pairs]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Mirror {"image" [C, H, W], "label" [1, H, W]}, and alike "annotated" [K + 1] and "vote" [K + 1, H, W].

        Raises:
            InputError: a slice that shows no left and right.
        """
        items = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return items
        axis = items.get("sides_axis", 0)
        if axis is None:
            raise InputError(f"mirror: {items.get('case', 'an image')} is stored in sagittal slices; switch it off")
        items["image"] = items["image"].flip(1 + axis)
        items["label"] = swap_values(items["label"].flip(1 + axis), self.pairs)
        if "annotated" in items:
            items["annotated"] = swap_classes(items["annotated"], self.pairs)
        if "vote" in items:
            items["vote"] = swap_classes(items["vote"].flip(1 + axis), self.pairs)
        return items


def swap_values(label: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return a label map in which each pair of values has changed places."""
    swapped = label.clone()
    for left, right in pairs:
        swapped[label == left] = right
        swapped[label == right] = left
    return swapped


def swap_classes(mask: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Return what is over classes [K + 1, ...] as one in which each pair has changed places."""
    order = np.arange(len(mask))
    for left, right in pairs:
        order[[left, right]] = right, left
    return mask[torch.from_numpy(order)]
