"""Propagation: an object found in some slices is followed from slice to slice until it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ragsam.prompting.prompted_volume import SliceMask, mask_box
from ragsam.transforms.voxel_prompts import SlicePrompts

Answer = Callable[[int, SlicePrompts], SliceMask]


@dataclass(frozen=True)
class Following:
    """How a slice's mask prompts the next slice, and when the object has ended.

    Attributes:
        margin: pixels that the box around the mask is widened by, so that the object may grow; None gives the mask
            alone.
        lowest_quality: a mask that the network thinks worse of, as an intersection over union, ends the object.
        least_overlap: share of the smaller of two neighbouring masks that lies in the other; less ends the object.
    """

    margin: float | None = 1.0
    lowest_quality: float = 0.5
    least_overlap: float = 0.5


def propagate(
    answer: Answer, found: Mapping[int, SliceMask], depth: int, following: Following | None = None
) -> dict[int, SliceMask]:
    """Follow an object through a volume, both ways from every slice that it was found in.

    Each slice's mask, as logits with the box around it, prompts the next. A way ends before a slice whose mask is
    empty, overlaps the last one too little, or is thought too bad; half-way to another slice that the object was found
    in; and at the volume's end. A slice in which nothing was found starts no way.

    Args:
        answer: gives the object that prompts mean in a slice, such as `PromptedVolume.answer`.
        found: the object by number of slice.
        depth: slices of the volume.
        following: see there.

    Returns:
        The object by number of slice, those of `found` among them as they were.
    """
    following = following or Following()
    masks = dict(found)
    seeds = sorted(found)
    for index, seed in enumerate(seeds):
        before = seeds[index - 1] if index else None
        after = seeds[index + 1] if index + 1 < len(seeds) else None
        # Slices half-way between two seeds go to the lower one.
        first = 0 if before is None else (before + seed) // 2 + 1
        last = depth - 1 if after is None else (seed + after) // 2
        for way in (range(seed - 1, first - 1, -1), range(seed + 1, last + 1)):
            masks |= _follow(answer, found[seed], way, following)
    return dict(sorted(masks.items()))


def _follow(answer: Answer, start: SliceMask, way: Sequence[int], following: Following) -> dict[int, SliceMask]:
    """Return what is found along a way of slices, until the object ends."""
    masks: dict[int, SliceMask] = {}
    last = start
    for number in way:
        if not bool(last.mask.any()):
            break
        box = None if following.margin is None else mask_box(last.mask, following.margin)
        found = answer(number, SlicePrompts(box=box, mask=last.logits))
        if has_ended(last, found, following):
            break
        masks[number] = last = found
    return masks


def has_ended(last: SliceMask, found: SliceMask, following: Following) -> bool:
    """Return whether an object is no longer there: its mask is empty, elsewhere, or thought too bad."""
    smaller = min(int(last.mask.sum()), int(found.mask.sum()))
    if not smaller or found.quality < following.lowest_quality:
        return True
    return int(torch.count_nonzero(last.mask & found.mask)) < following.least_overlap * smaller
