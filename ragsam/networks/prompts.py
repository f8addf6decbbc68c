"""Prompts of objects in a slice, and the head that answers them: SAM's own masks, kept beside those of the classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from torch import Tensor, nn

#: SAM's masks for a prompt: one for what is meant for certain, and three for what could be meant.
NUM_MASKS = 4
#: Kinds of points.
OUTSIDE, INSIDE, PADDING = 0, 1, -1


@dataclass(frozen=True)
class PointPrompts:
    """Points in pixels of the network's input, whole numbers being pixel centres.

    Attributes:
        row, column: [N, P], float.
        kind: [N, P], int, `INSIDE` the object, `OUTSIDE` it, or `PADDING`.
    """

    row: Tensor
    column: Tensor
    kind: Tensor


@dataclass(frozen=True)
class BoxPrompts:
    """Boxes in pixels of the network's input, both ends included: [N], float, each."""

    top: Tensor
    left: Tensor
    bottom: Tensor
    right: Tensor


@dataclass(frozen=True)
class Prompts:
    """Prompts of N objects; at least one kind.

    Attributes:
        points, boxes: see there.
        masks: [N, 1, 4 h, 4 w], float, logits at the decoder's resolution, as `PromptedMasks.coarse` gives them.
    """

    points: PointPrompts | None = None
    boxes: BoxPrompts | None = None
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.points is None and self.boxes is None and self.masks is None:
            raise ValueError("no prompt: give points, boxes or masks")

    def padded(self) -> Prompts:
        """Return them with a padding point beside boxes, as SAM 2 has it, which takes boxes for pairs of points."""
        if self.boxes is None:
            return self
        blank = self.boxes.top.new_zeros(len(self), 1)
        points = PointPrompts(blank, blank, torch.full_like(blank, PADDING, dtype=torch.long))
        if self.points is not None:
            given, added = self.points, points
            names = ("row", "column", "kind")
            points = PointPrompts(*(torch.cat([getattr(one, n) for one in (given, added)], dim=1) for n in names))
        return replace(self, points=points)

    def __len__(self) -> int:
        if self.points is not None:
            return len(self.points.row)
        if self.boxes is not None:
            return len(self.boxes.top)
        return len(self.masks)


class PromptedMasks(NamedTuple):
    """What the prompted network gives for N objects.

    Attributes:
        logits: [N, 4, H, W]; the first is meant for prompts that leave no doubt, the other three for a lone click.
        coarse: [N, 4, 4 h, 4 w], the decoder's own logits, to be given back as a mask prompt.
        quality: [N, 4], the network's estimate of each mask's intersection over union.
    """

    logits: Tensor
    coarse: Tensor
    quality: Tensor

    def choose(self, *, ambiguous: bool) -> PromptedMasks:
        """Return one mask an object: the first, or, for an ambiguous prompt, the best of the other three."""
        if not ambiguous:
            return PromptedMasks(self.logits[:, :1], self.coarse[:, :1], self.quality[:, :1])
        best = self.quality[:, 1:].argmax(1) + 1
        rows = torch.arange(len(best), device=best.device)
        return PromptedMasks(*(part[rows, best][:, None] for part in self))


class PromptHead(nn.Module):
    """The parts of SAM's mask decoder that count masks, for its four prompted ones.

    In a tuned network the mask decoder has class tokens in their place; everything else is shared.

    Args:
        decoder: the mask decoder that the head goes with; gives the widths.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        plain = MaskDecoder(
            transformer_dim=decoder.transformer_dim,
            transformer=nn.Identity(),
            num_multimask_outputs=NUM_MASKS - 1,
        )
        self.mask_tokens = plain.mask_tokens
        self.output_hypernetworks_mlps = plain.output_hypernetworks_mlps
        self.iou_prediction_head = plain.iou_prediction_head
        self.iou_prediction_head.sigmoid_output = decoder.iou_prediction_head.sigmoid_output


def embed_prompts(encoder: PromptEncoder, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Return SAM's embeddings of prompts: sparse [N, T, C] of points and boxes, dense [N, C, h, w] of masks."""
    points = boxes = None
    if prompts.points is not None:
        coordinates = torch.stack([prompts.points.column, prompts.points.row], dim=-1).float()  # SAM's are (x, y)
        points = (coordinates, prompts.points.kind)
    if prompts.boxes is not None:
        box = prompts.boxes
        boxes = torch.stack([box.left, box.top, box.right, box.bottom], dim=-1).float()
    return encoder(points=points, boxes=boxes, masks=prompts.masks)


def boxes_of(masks: Tensor) -> BoxPrompts:
    """Return the boxes around masks [N, 1, H, W], none of them empty."""
    rows = masks.any(3)[:, 0].float()
    columns = masks.any(2)[:, 0].float()
    top = rows.argmax(1)
    left = columns.argmax(1)
    bottom = rows.shape[1] - 1 - rows.flip(1).argmax(1)
    right = columns.shape[1] - 1 - columns.flip(1).argmax(1)
    return BoxPrompts(top.float(), left.float(), bottom.float(), right.float())
