"""Prompts as a person would give them, drawn from labels for training, all by torch's global generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ragsam.networks.prompts import INSIDE, OUTSIDE, BoxPrompts, PointPrompts, Prompts, boxes_of
from ragsam.prompting.prompted_volume import coarse_logits
from ragsam.transforms.voxel_prompts import MASK_LOGIT

#: Kinds of prompts and their relative frequencies: a lone click in the object; some clicks in it and around it; a box;
#: a draft; a draft with clicks that correct it; the network's own automatic result with such clicks; the mask and box
#: of a neighbouring slice.
KINDS = {
    "click": 1.0,
    "clicks": 0.3,
    "box": 1.0,
    "draft": 0.3,
    "correction": 0.3,
    "refinement": 1.0,
    "following": 1.0,
}
#: Kinds in one step, each for a part of the slices.
GROUPS = 4
#: Share of the objects followed from a neighbouring slice that have ended: the slice at hand does not have them.
ENDED_SHARE = 0.5
MOST_CLICKS = 4
#: Clicks outside the object are within half of so many pixels.
_AROUND = 11


@dataclass(frozen=True)
class DrawnPrompts:
    """Objects of a batch of slices, and prompts for them.

    Attributes:
        rows: [N], int64, each object's sample; no sample occurs twice.
        objects: [N, 1, S, S], bool; empty where the object has ended.
        organs: [N], int64, their classes.
        prompts: of the N objects, all of one kind; None if the network's own result is to be corrected, see
            `corrected`.
        ambiguous: whether they are lone clicks.
    """

    rows: Tensor
    objects: Tensor
    organs: Tensor
    prompts: Prompts | None
    ambiguous: bool = False

    def to(self, device: torch.device | str | None) -> DrawnPrompts:
        """Return a copy on a device."""
        return _moved(self, device)


def _moved(value: Any, device: torch.device | str | None) -> Any:
    """Move a tensor, or every tensor of a dataclass, to a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value):
        return type(value)(**{name: _moved(part, device) for name, part in vars(value).items()})
    return value


def draw_prompts(label: Tensor, annotated: Tensor, mask_size: Sequence[int]) -> tuple[DrawnPrompts, ...]:
    """Draw an organ of every slice that has any, and prompts for it: several kinds, each for a part of the slices.

    Args:
        label: [B, 1, S, S], int64.
        annotated: [B, K + 1], bool, the classes annotated in each sample.
        mask_size: (2,), of a mask prompt at the decoder's resolution.

    Returns:
        A group for every kind; none where no slice has an annotated organ.
    """
    present = F.one_hot(label[:, 0], annotated.shape[1]).flatten(1, 2).any(1) & annotated
    present[:, 0] = False
    names = list(KINDS)
    count = min(GROUPS, len(names))
    kinds = torch.multinomial(torch.tensor(list(KINDS.values())), count).tolist()
    parts = torch.randperm(len(label)).tensor_split(count)
    groups = []
    for kind, part in zip(kinds, parts, strict=True):
        rows = part.sort().values
        if names[kind] == "following":
            groups += _followed(label, annotated, present, rows, mask_size)
            continue
        rows = rows[present[rows].any(1)]
        if len(rows):
            organs = torch.multinomial(present[rows].float(), 1)[:, 0]
            objects = label[rows] == organs[:, None, None, None]
            drawn = DrawnPrompts(rows, objects, organs, None)
            groups.append(_prompted(drawn, names[kind], mask_size))
    return tuple(groups)


def _prompted(drawn: DrawnPrompts, kind: str, mask_size: Sequence[int]) -> DrawnPrompts:
    """Return objects with prompts of a kind, drawn from the objects themselves."""
    objects = drawn.objects
    if kind == "click":
        clicks = _points(objects, _pick(objects, 1))
        return replace(drawn, prompts=Prompts(clicks), ambiguous=True)
    if kind == "clicks":
        around = F.max_pool2d(objects.float(), _AROUND, stride=1, padding=_AROUND // 2) > 0
        first = _pick(objects, 1)
        others = _pick(around, int(torch.randint(1, MOST_CLICKS, ())))
        clicks = _points(objects, torch.cat([first, others], dim=1))
        return replace(drawn, prompts=Prompts(clicks))
    if kind == "box":
        return replace(drawn, prompts=Prompts(boxes=_jittered(boxes_of(objects))))
    if kind == "draft":
        draft = coarse_logits(rough_drafts(objects), mask_size)
        return replace(drawn, prompts=Prompts(masks=draft))
    if kind == "correction":
        return corrected(drawn, rough_drafts(objects), mask_size)
    return drawn  # of a refinement: its draft is the network's coming result


def corrected(drawn: DrawnPrompts, drafts: Tensor, mask_size: Sequence[int]) -> DrawnPrompts:
    """Return objects prompted by drafts, logits [N, 1, S, S], and clicks where these are wrong, else in the object."""
    wrong = (drafts > 0) != drawn.objects
    faulty = wrong.flatten(1).any(1)[:, None, None, None]
    regions = torch.where(faulty, wrong, drawn.objects)
    count = int(torch.randint(1, MOST_CLICKS, ()))
    points = _points(drawn.objects, _pick(regions, count))
    return replace(drawn, prompts=Prompts(points, masks=coarse_logits(drafts, mask_size)))


def _followed(
    label: Tensor, annotated: Tensor, present: Tensor, part: Tensor, mask_size: Sequence[int]
) -> list[DrawnPrompts]:
    """Return a group of objects, if there are any, prompted as a neighbouring slice would: by its mask and box.

    Some objects have ended: organs that the slice lacks, taken from another slice of the batch.
    """
    source = part.clone()
    organs = torch.zeros_like(part)
    here = present[part].any(1)
    if here.any():
        organs[here] = torch.multinomial(present[part[here]].float(), 1)[:, 0]
    other = torch.randint(len(label), part.shape)
    gone = present[other] & annotated[part] & ~present[part]
    ended = gone.any(1) & (torch.rand(len(part)) < ENDED_SHARE)
    if ended.any():
        organs[ended] = torch.multinomial(gone[ended].float(), 1)[:, 0]
        source[ended] = other[ended]
    asked = organs > 0
    if not asked.any():
        return []
    rows = part[asked]
    organs = organs[asked]
    wanted = organs[:, None, None, None]
    draft = rough_drafts(label[source[asked]] == wanted)
    margin = 4 * torch.rand(len(rows))
    tight = boxes_of(draft > 0)
    last = label.shape[-1] - 1
    boxes = BoxPrompts(
        (tight.top - margin).clamp_min(0),
        (tight.left - margin).clamp_min(0),
        (tight.bottom + margin).clamp_max(last),
        (tight.right + margin).clamp_max(last),
    )
    prompts = Prompts(boxes=boxes, masks=coarse_logits(draft, mask_size))
    return [DrawnPrompts(rows, label[rows] == wanted, organs, prompts)]


def rough_drafts(objects: Tensor) -> Tensor:
    """Return logits [N, 1, S, S] of drafts of objects, none empty: moved, resized, and with uncertain borders."""
    count = len(objects)
    side = objects.shape[-1]
    boxes = boxes_of(objects)
    # affine_grid maps new places to old ones, in -1 to 1, columns before rows.
    middle = torch.stack([boxes.left + boxes.right, boxes.top + boxes.bottom], dim=1) / (side - 1) - 1
    rough = torch.rand(count, 1)  # some drafts are nearly right
    scale = (1 + 0.25 * rough * torch.randn(count, 1)).clamp(0.7, 1.4)
    extent = torch.stack([boxes.right - boxes.left, boxes.bottom - boxes.top], dim=1) + 1
    shift = middle * (1 - scale) + 0.15 * rough * torch.randn(count, 2) * 2 * extent / side
    theta = torch.cat([torch.diag_embed(scale.expand(-1, 2)), shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, [*objects.shape], align_corners=True)
    moved = F.grid_sample(objects.float(), grid, align_corners=True)
    moved = F.avg_pool2d(moved, 3, stride=1, padding=1, count_include_pad=False)
    coarse = max(2, side // 6)
    noise = F.interpolate(torch.randn(count, 1, coarse, coarse), [side, side], mode="bilinear")
    logits = MASK_LOGIT * (2 * moved - 1) + 6 * rough[:, :, None, None] * noise
    exact = torch.where(objects, MASK_LOGIT, -MASK_LOGIT)
    kept = (logits > 0).flatten(1).any(1)[:, None, None, None]
    return torch.where(kept, logits, exact)


def _jittered(boxes: BoxPrompts) -> BoxPrompts:
    """Return boxes whose sides have moved by noise of a tenth of the box's extent, as SAM was trained."""
    height = (boxes.bottom - boxes.top + 1) / 10
    width = (boxes.right - boxes.left + 1) / 10
    top, left, bottom, right = torch.randn(4, len(height)).clamp(-2, 2)
    return BoxPrompts(
        boxes.top + top * height,
        boxes.left + left * width,
        boxes.bottom + bottom * height,
        boxes.right + right * width,
    )


def _pick(regions: Tensor, count: int) -> Tensor:
    """Draw pixels of regions [N, 1, H, W], none empty: flat indices [N, count]."""
    return torch.multinomial(regions.flatten(1).float(), count, replacement=True)


def _points(objects: Tensor, places: Tensor) -> PointPrompts:
    """Return clicks at flat indices [N, P], inside the objects [N, 1, H, W] or outside."""
    kind = torch.where(objects.flatten(1).gather(1, places), INSIDE, OUTSIDE)
    columns = objects.shape[-1]
    return PointPrompts((places // columns).float(), (places % columns).float(), kind)
