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

_IGNORED = -1  # class of a pixel that the cross entropy leaves out


class Target(NamedTuple):
    """The labels of a batch.

    Attributes:
        label: [B, 1, H, W], int64, class of each pixel.
        annotated: [B, K + 1], bool, the classes annotated in each sample; background always is.
    """

    label: Tensor
    annotated: Tensor


class PartialDiceCELoss(nn.Module):
    """Dice plus cross entropy, in which a sample does not count for the classes that it does not annotate.

    Such a class is left out of that sample's softmax, so that the gradient of its logits is exactly zero, and out of
    the Dice over the batch; a class that no sample annotates is left out of the mean over classes. A pixel labelled
    with such a class all the same is ignored. Where everything is annotated this is MONAI's `DiceCELoss` with
    `to_onehot_y`, `softmax` and `batch`. It is worked out in float32.

    SAMed's loss is `dice_weight=0.8, cross_entropy_weight=0.2, dice_squared=True` on a network that trains with
    `coarse_training`.

    Args:
        dice_weight, cross_entropy_weight: factors of the two parts.
        class_weights: K + 1, background first: weights of the means over pixels and over classes; None weights all
            alike.
        dice_squared: squares the terms of the Dice's denominator.

    Attributes:
        parts: the last batch's `cross_entropy` and `dice`, not weighted.

    Raises:
        InputError: a negative weight, or no positive one.
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
            class_weights = torch.tensor(class_weights, dtype=torch.float32)
        self.dice = DiceLoss(batch=True, reduction="none", squared_pred=dice_squared)
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.class_weights = class_weights
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Target) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits: [B, K + 1, h, w]; labels of another size are resized to it.

        Raises:
            InputError: class weights for another number of classes.
        """
        label = at_size(target.label, logits.shape[-2:])
        annotated = target.annotated
        weights = self._class_weights(logits)
        masked = logits.float().masked_fill(~annotated[:, :, None, None], float("-inf"))
        # A pixel with a class that is not annotated is known to be unreliable: nothing is learnt there.
        known = annotated.gather(1, label.flatten(1)).view_as(label)
        cross_entropy = _mean_cross_entropy(masked, label.where(known, _IGNORED)[:, 0], weights)
        classes = F.one_hot(label[:, 0], logits.shape[1]).movedim(-1, 1)
        reference = (classes * known).to(masked.dtype)
        by_class = self.dice(masked.softmax(1) * known, reference).flatten()
        counted = annotated.any(0)
        dice = by_class[counted].mean()
        if weights is not None:
            dice = _weighted_mean(by_class[counted], weights[counted])
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
    """Resize labels [B, 1, H, W] as SAMed does: the nearest pixel, with first and last pixels aligned.

    That is scipy's `zoom(label, order=0)`.
    """
    if label.shape[-2:] == tuple(size):
        return label
    rows, columns = (_nearest(old, new, label) for old, new in zip(label.shape[-2:], size, strict=True))
    return label[..., rows[:, None], columns]


def _nearest(old: int, new: int, like: Tensor) -> Tensor:
    step = (old - 1) / max(new - 1, 1)
    places = torch.arange(new, dtype=torch.float64, device=like.device) * step
    return (places + 0.5).floor().long()


def _mean_cross_entropy(logits: Tensor, label: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over the pixels that are not ignored; 0 where all are."""
    total = F.cross_entropy(logits, label, weight=weights, ignore_index=_IGNORED, reduction="sum")
    counted = label != _IGNORED
    if weights is not None:
        counted = weights[label.clamp_min(0)] * counted
    return total / counted.sum().clamp_min(torch.finfo(total.dtype).tiny)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(values.dtype).tiny)


def _check_weights(name: str, weights: Sequence[float]) -> None:
    valid = isinstance(weights, Sequence) and any(weights)
    if valid:
        valid = all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights)
    if not valid:
        raise InputError(f"{name}: {weights} are not numbers from 0 on, one of them above it")
