"""Prompts as a person would give them, drawn from labels; for training. All is drawn by torch's global generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ragsam.networks.prompts import INSIDE, OUTSIDE, BoxPrompts, PointPrompts, Prompts, boxes_of
from ragsam.prompting.prompted_volume import coarse_logits
from ragsam.transforms.voxel_prompts import MASK_LOGIT

#: What objects are prompted by, and how often beside each other: a lone click in the object; some clicks in it and
#: around it; a box; a draft; a draft with clicks that correct it; the same of the network's own automatic result; the
#: draft with its box that a neighbouring slice gives.
KINDS = {
    "click": 1.0,
    "clicks": 0.3,
    "box": 1.0,
    "draft": 0.3,
    "correction": 0.3,
    "refinement": 1.0,
    "following": 1.0,
}
#: Kinds in one step, each for its part of the slices.
GROUPS = 4
#: Share of the objects followed from a neighbouring slice that have ended there: what is asked for is in another slice.
ENDED_SHARE = 0.5
MOST_CLICKS = 4
_AROUND = 11  # pixels; clicks that are not in the object lie within half of it


@dataclass(frozen=True)
class DrawnPrompts:
    """Objects of a batch of slices, and prompts for them.

    Attributes:
        rows: [N], int64, the sample that each object is in; none is in twice.
        objects: [N, 1, S, S], bool; empty where the object has ended.
        organs: [N], int64, what they are.
        prompts: of the N objects, one kind for all; None where the network's own result is to be corrected, see
            `corrected`.
        ambiguous: whether they are lone clicks.
    """

    rows: Tensor
    objects: Tensor
    organs: Tensor
    prompts: Prompts | None
    ambiguous: bool = False

    def to(self, device: torch.device | str | None) -> DrawnPrompts:
        """Return the same on a device."""
        rows, objects, organs = (part.to(device) for part in (self.rows, self.objects, self.organs))
        prompts = self.prompts
        if prompts is not None:
            points, boxes, masks = prompts.points, prompts.boxes, prompts.masks
            prompts = Prompts(
                points and PointPrompts(*(part.to(device) for part in (points.row, points.column, points.kind))),
                boxes and BoxPrompts(*(part.to(device) for part in (boxes.top, boxes.left, boxes.bottom, boxes.right))),
                None if masks is None else masks.to(device),
            )
        return DrawnPrompts(rows, objects, organs, prompts, self.ambiguous)


def draw_prompts(label: Tensor, annotated: Tensor, mask_size: Sequence[int]) -> tuple[DrawnPrompts, ...]:
    """Draw one organ of every slice that has any, and prompts for it; some kinds, each for a part of the slices.

    Args:
        label: [B, 1, S, S], int64.
        annotated: [B, K + 1], bool, the classes that a sample annotates.
        mask_size: (2,), of a mask prompt at the decoder's resolution.

    Returns:
        A group for every kind; none where no slice has an annotated organ.
    """
    present = F.one_hot(label[:, 0], annotated.shape[1]).flatten(1, 2).any(1) & annotated
    present[:, 0] = False
    count = min(GROUPS, len(KINDS))
    kinds = torch.multinomial(torch.tensor(list(KINDS.values())), count).tolist()
    groups = []
    for kind, part in zip(kinds, torch.randperm(len(label)).tensor_split(count), strict=True):
        rows, name = part.sort().values, list(KINDS)[kind]
        if name == "following":
            groups.append(_followed(label, annotated, present, rows, mask_size))
        elif len(rows := rows[present[rows].any(1)]):
            organs = torch.multinomial(present[rows].float(), 1)[:, 0]
            drawn = DrawnPrompts(rows, label[rows] == organs[:, None, None, None], organs, None)
            groups.append(_prompted(drawn, name, mask_size))
    return tuple(group for group in groups if group is not None)


def _prompted(drawn: DrawnPrompts, kind: str, mask_size: Sequence[int]) -> DrawnPrompts:
    """Return objects with prompts of a kind, drawn from the objects themselves."""
    objects = drawn.objects
    if kind == "click":
        return replace(drawn, prompts=Prompts(_points(objects, _pick(objects, 1))), ambiguous=True)
    if kind == "clicks":
        around = F.max_pool2d(objects.float(), _AROUND, stride=1, padding=_AROUND // 2) > 0
        places = torch.cat([_pick(objects, 1), _pick(around, int(torch.randint(1, MOST_CLICKS, ())))], dim=1)
        return replace(drawn, prompts=Prompts(_points(objects, places)))
    if kind == "box":
        return replace(drawn, prompts=Prompts(boxes=_jittered(boxes_of(objects))))
    if kind == "draft":
        return replace(drawn, prompts=Prompts(masks=coarse_logits(rough_drafts(objects), mask_size)))
    if kind == "correction":
        return corrected(drawn, rough_drafts(objects), mask_size)
    return drawn  # a refinement's draft is what the network is about to make


def corrected(drawn: DrawnPrompts, drafts: Tensor, mask_size: Sequence[int]) -> DrawnPrompts:
    """Return objects prompted by drafts, logits [N, 1, S, S], and clicks where these are wrong; else in the object."""
    wrong = (drafts > 0) != drawn.objects
    wrong = torch.where(wrong.flatten(1).any(1)[:, None, None, None], wrong, drawn.objects)
    points = _points(drawn.objects, _pick(wrong, int(torch.randint(1, MOST_CLICKS, ()))))
    return replace(drawn, prompts=Prompts(points, masks=coarse_logits(drafts, mask_size)))


def _followed(
    label: Tensor, annotated: Tensor, present: Tensor, part: Tensor, mask_size: Sequence[int]
) -> DrawnPrompts | None:
    """Return objects as a neighbouring slice hands them on: its mask with the box around it, the object gone in some.

    An object that is gone is an organ that the slice lacks, where it lies in another slice of the batch.
    """
    source, organs = part.clone(), torch.zeros_like(part)
    here = present[part].any(1)
    if here.any():
        organs[here] = torch.multinomial(present[part[here]].float(), 1)[:, 0]
    other = torch.randint(len(label), part.shape)
    gone = present[other] & annotated[part] & ~present[part]
    ended = gone.any(1) & (torch.rand(len(part)) < ENDED_SHARE)
    if ended.any():
        organs[ended], source[ended] = torch.multinomial(gone[ended].float(), 1)[:, 0], other[ended]
    rows, source, organs = (values[organs > 0] for values in (part, source, organs))
    if not len(rows):
        return None
    objects, handed_on = (label[where] == organs[:, None, None, None] for where in (rows, source))
    draft = rough_drafts(handed_on)
    margin = 4 * torch.rand(len(rows))
    boxes, last = boxes_of(draft > 0), label.shape[-1] - 1
    boxes = BoxPrompts(
        (boxes.top - margin).clamp_min(0),
        (boxes.left - margin).clamp_min(0),
        (boxes.bottom + margin).clamp_max(last),
        (boxes.right + margin).clamp_max(last),
    )
    prompts = Prompts(boxes=boxes, masks=coarse_logits(draft, mask_size))
    return DrawnPrompts(rows, objects, organs, prompts)


def rough_drafts(objects: Tensor) -> Tensor:
    """Return logits [N, 1, S, S] of drafts of objects, none of them empty: moved, resized, their borders uncertain."""
    count, side = len(objects), objects.shape[-1]
    boxes = boxes_of(objects)
    # affine_grid leads from new to old places, in -1 to 1, columns before rows.
    middle = torch.stack([boxes.left + boxes.right, boxes.top + boxes.bottom], dim=1) / (side - 1) - 1
    rough = torch.rand(count, 1)  # some drafts are nearly right
    scale = (1 + 0.25 * rough * torch.randn(count, 1)).clamp(0.7, 1.4)
    extent = torch.stack([boxes.right - boxes.left, boxes.bottom - boxes.top], dim=1) + 1
    shift = middle * (1 - scale) + 0.15 * rough * torch.randn(count, 2) * 2 * extent / side
    theta = torch.cat([torch.diag_embed(scale.expand(-1, 2)), shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [*objects.shape], align_corners=True)
    moved = F.grid_sample(objects.float(), grid, align_corners=True)
    moved = F.avg_pool2d(moved, 3, stride=1, padding=1, count_include_pad=False)
    noise = F.interpolate(torch.randn(count, 1, *[max(2, side // 6)] * 2), [side, side], mode="bilinear")
    logits = MASK_LOGIT * (2 * moved - 1) + 6 * rough[:, :, None, None] * noise
    plain = torch.where(objects, MASK_LOGIT, -MASK_LOGIT)
    return torch.where((logits > 0).flatten(1).any(1)[:, None, None, None], logits, plain)


def _jittered(boxes: BoxPrompts) -> BoxPrompts:
    """Return boxes with every side moved by a tenth of the box's extent, normally distributed; as for SAM."""
    height, width = (boxes.bottom - boxes.top + 1) / 10, (boxes.right - boxes.left + 1) / 10
    top, left, bottom, right = torch.randn(4, len(height)).clamp(-2, 2)
    return BoxPrompts(
        boxes.top + top * height, boxes.left + left * width, boxes.bottom + bottom * height, boxes.right + right * width
    )


def _pick(regions: Tensor, count: int) -> Tensor:
    """Draw pixels of regions [N, 1, H, W], none of them empty: numbers [N, count]."""
    return torch.multinomial(regions.flatten(1).float(), count, replacement=True)


def _points(objects: Tensor, places: Tensor) -> PointPrompts:
    """Return clicks at numbers of pixels [N, P], in the objects [N, 1, H, W] or not, as these say."""
    kind = torch.where(objects.flatten(1).gather(1, places), INSIDE, OUTSIDE)
    columns = objects.shape[-1]
    return PointPrompts((places // columns).float(), (places % columns).float(), kind)
