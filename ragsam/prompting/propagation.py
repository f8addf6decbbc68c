"""Propagation: an object found in some slices is followed from slice to slice until it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ragsam.prompting.prompted_volume import SliceMask, mask_box
from ragsam.transforms.voxel_prompts import SlicePrompts

Answer = Callable[[int, SlicePrompts], SliceMask]


@dataclass(frozen=True)
class Following:
    """How a slice's mask prompts the next slice, and when the object has ended.

    Attributes:
        margin: pixels by which the box around the mask is widened, so that the object may grow; None gives no box.
        drafts: whether the mask's logits prompt the next slice too, beside the box.
        lowest_quality: a mask with a lower estimated intersection over union ends the object.
        least_overlap: share of the smaller of two neighbouring masks that is in the other; less ends the object.
    """

    margin: float | None = 1.0
    drafts: bool = True
    lowest_quality: float = 0.5
    least_overlap: float = 0.5


def propagate(
    answer: Answer, found: Mapping[int, SliceMask], depth: int, following: Following | None = None
) -> dict[int, SliceMask]:
    """Follow an object through a volume, in both directions from every slice in which it was found.

    Each slice's mask, as logits with the box around it, prompts the next. It ends before a slice whose mask is empty,
    overlaps the last one too little, or has too low a quality; half-way to another slice in which the object was found;
    and at the volume's end. An empty slice is not followed.

    Args:
        answer: gives the object that prompts mean in a slice, such as `PromptedVolume.answer`.
        found: the object by number of slice.
        depth: number of slices of the volume.
        following: see there.

    Returns:
        The object by number of slice, those of `found` among them unchanged.
    """
    following = following or Following()
    masks = dict(found)
    seeds = sorted(found)
    # Slices half-way between two seeds go to the lower one.
    lasts = [(lower + upper) // 2 for lower, upper in pairwise(seeds)]
    first = 0
    for seed, last in zip(seeds, [*lasts, depth - 1], strict=False):
        down = range(seed - 1, first - 1, -1)
        up = range(seed + 1, last + 1)
        masks |= _follow(answer, found[seed], down, following)
        masks |= _follow(answer, found[seed], up, following)
        first = last + 1
    return dict(sorted(masks.items()))


def _follow(answer: Answer, start: SliceMask, numbers: Sequence[int], following: Following) -> dict[int, SliceMask]:
    """Return the object in slices of these numbers, one after the other, until it ends."""
    masks: dict[int, SliceMask] = {}
    last = start
    for number in numbers:
        if not last.mask.any():
            break
        box = None
        if following.margin is not None:
            box = mask_box(last.mask, following.margin)
        found = answer(number, SlicePrompts(box=box, mask=last.logits if following.drafts else None))
        if has_ended(last, found, following):
            break
        masks[number] = found
        last = found
    return masks


def has_ended(last: SliceMask, found: SliceMask, following: Following) -> bool:
    """Return whether an object is no longer there: its mask is empty, elsewhere, or of too low a quality."""
    smaller = min(int(last.mask.sum()), int(found.mask.sum()))
    if smaller == 0 or found.quality < following.lowest_quality:
        return True
    overlap = int((last.mask & found.mask).sum())
    return overlap < following.least_overlap * smaller
