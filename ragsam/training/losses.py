"""The training loss, for cases that annotate only some organs too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

from ragsam.errors import InputError

_LEFT_OUT = -1  # class of a pixel that cross entropy passes over


class Target(NamedTuple):
    """What a batch is trained towards.

    Attributes:
        label: [B, 1, H, W], int64, class of each pixel.
        annotated: [B, K + 1], bool, the classes that each sample annotates; background is always among them.
    """

    label: Tensor
    annotated: Tensor


class PartialDiceCELoss(nn.Module):
    """Dice plus cross entropy, in which a sample says nothing of the classes that it does not annotate.

    Such a class is left out of that sample's softmax, so the gradient of its logits is exactly zero, and out of the
    Dice over the batch; a class that no sample annotates is left out of the mean over classes. A pixel that carries
    such a class all the same is left out altogether. Where everything is annotated this is MONAI's `DiceCELoss` with
    `to_onehot_y`, `softmax` and `batch`. Logits of less than 32 bits are brought to them first.

    SAMed's loss is `dice_weight=0.8, cross_entropy_weight=0.2, dice_squared=True` on a network that trains with
    `coarse_training`.

    Args:
        dice_weight, cross_entropy_weight: what each part is multiplied by.
        class_weights: K + 1, background first: weights of the means over pixels and over classes; None weighs all
            alike.
        dice_squared: squares the terms of the Dice's denominator.

    Attributes:
        parts: the last batch's `cross_entropy` and `dice`, not weighted.

    Raises:
        InputError: a weight below 0, or none above it.
    """

    def __init__(
        self,
        *,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
        dice_squared: bool = False,
    ) -> None:
        super().__init__()
        _check_weights("dice_weight and cross_entropy_weight", [dice_weight, cross_entropy_weight])
        if class_weights is not None:
            _check_weights("class_weights", class_weights)
        self.dice = DiceLoss(batch=True, reduction="none", squared_pred=dice_squared)
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Target) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits: [B, K + 1, h, w]; labels of another size are brought to theirs, each pixel taking the class at its
                middle.

        Raises:
            InputError: class weights for another number of classes.
        """
        label, annotated = at_size(target.label, logits.shape[-2:]), target.annotated
        masked = logits.float().masked_fill(~annotated[:, :, None, None], float("-inf"))
        # A value of a class that is not annotated: the pixel is known to be unreliable, nothing is learnt there.
        known = annotated.gather(1, label.flatten(1)).view_as(label)
        weights = self._class_weights(masked)
        cross_entropy = _mean_cross_entropy(masked, label.where(known, _LEFT_OUT)[:, 0], weights)
        classes = F.one_hot(label[:, 0], logits.shape[1]).movedim(-1, 1)
        by_class = self.dice(masked.softmax(1) * known, (classes * known).to(masked.dtype)).flatten()
        told = annotated.any(0)
        dice = by_class[told].mean() if weights is None else _mean(by_class[told], weights[told])
        self.parts = {"cross_entropy": cross_entropy.detach(), "dice": dice.detach()}
        return self.cross_entropy_weight * cross_entropy + self.dice_weight * dice

    def _class_weights(self, logits: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        if len(self.class_weights) != logits.shape[1]:
            raise InputError(
                f"class_weights: {len(self.class_weights)} numbers for {logits.shape[1]} classes; give background's "
                "first, then each organ's"
            )
        return self.class_weights.to(logits.device)


def at_size(label: Tensor, size: Sequence[int]) -> Tensor:
    """Bring labels [B, 1, H, W] to a size, each pixel taking the class nearest to its middle."""
    if label.shape[-2:] == tuple(size):
        return label
    return F.interpolate(label.float(), tuple(size), mode="nearest-exact").to(label.dtype)


def _mean_cross_entropy(logits: Tensor, label: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over the pixels that count; 0 where none does."""
    total = F.cross_entropy(logits, label, weight=weights, ignore_index=_LEFT_OUT, reduction="sum")
    counted = label != _LEFT_OUT
    count = counted.sum() if weights is None else (weights[label.clamp_min(0)] * counted).sum()
    return total / count.clamp_min(torch.finfo(total.dtype).tiny)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)


def _check_weights(name: str, weights: Sequence[float]) -> None:
    plain = isinstance(weights, Sequence) and all(isinstance(w, int | float) and 0 <= w < math.inf for w in weights)
    if not plain or not any(weights):
        raise InputError(f"{name}: {weights} are not numbers from 0 on, one of them above it")
