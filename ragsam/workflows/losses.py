"""The training loss, for cases that annotate only some organs too."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

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
    `to_onehot_y`, `softmax` and `batch`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(batch=True, reduction="none")

    def forward(self, logits: Tensor, target: Target) -> Tensor:
        """Return the loss, a scalar, of logits [B, K + 1, H, W]."""
        label, annotated = target
        masked = logits.masked_fill(~annotated[:, :, None, None], float("-inf"))
        # A value of a class that is not annotated: the pixel is known to be unreliable, nothing is learnt there.
        known = annotated.gather(1, label.flatten(1)).view_as(label)
        cross_entropy = F.cross_entropy(masked, label.where(known, _LEFT_OUT)[:, 0], ignore_index=_LEFT_OUT)
        classes = F.one_hot(label[:, 0], logits.shape[1]).movedim(-1, 1)
        by_class = self.dice(masked.softmax(1) * known, (classes * known).to(logits.dtype)).flatten()
        return cross_entropy + by_class[annotated.any(0)].mean()
