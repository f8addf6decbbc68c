"""Propagation: an object is followed both ways, slice by slice, and where it ends it ends."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ragsam.prompting.prompted_volume import SliceMask
from ragsam.prompting.propagation import Following, has_ended, propagate
from ragsam.transforms.voxel_prompts import SliceBox

SIDE = 12


def block(top, left, size=3, *, quality=0.9):
    logits = torch.full((SIDE, SIDE), -2.0)
    logits[top : top + size, left : left + size] = 2.0
    return SliceMask(logits, quality)


NOTHING = SliceMask(torch.full((SIDE, SIDE), -2.0), 0.9)


class Scripted:
    """Answers with a mask set for each slice, and remembers what it was asked."""

    def __init__(self, masks):
        self.masks, self.asked = masks, {}

    def __call__(self, number, prompts):
        assert number not in self.asked  # no slice is asked twice
        self.asked[number] = prompts
        return self.masks[number]


def column(first, last, depth):
    """Return an object that lies in slices first to last, one pixel further down in each."""
    return [block(n, 4) if first <= n <= last else NOTHING for n in range(depth)]


def test_an_object_is_followed_both_ways_to_its_ends():
    masks = column(1, 6, 9)
    answer = Scripted(masks)
    found = propagate(answer, {3: masks[3]}, 9)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert all(found[n] is masks[n] for n in found)
    assert set(answer.asked) == {0, 1, 2, 4, 5, 6, 7}  # the slices after the ends are asked, none beyond


def test_a_slice_is_prompted_by_its_neighbours_mask_and_the_box_around_it():
    masks = column(1, 6, 9)
    answer = Scripted(masks)
    propagate(answer, {3: masks[3]}, 9, Following(margin=2))
    assert torch.equal(answer.asked[5].mask, masks[4].logits)
    assert answer.asked[5].box == SliceBox(top=2, left=2, bottom=8, right=8)
    assert torch.equal(answer.asked[1].mask, masks[2].logits)
    assert answer.asked[1].points == ()
    alone = Scripted(masks)
    propagate(alone, {3: masks[3]}, 9, Following(margin=None))
    assert alone.asked[5].box is None


def test_it_ends_at_the_volumes_ends():
    masks = column(0, 3, 4)
    assert list(propagate(Scripted(masks), {1: masks[1]}, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("next_mask", "ended"),
    [
        (block(4, 4), False),
        (NOTHING, True),
        (block(4, 7), True),  # beside it
        (block(6, 4), False),  # 3 of 9 pixels in common, a third
        (block(6, 5), True),  # 2 of 9
        (block(4, 4, 1), False),  # much smaller, but within
        (block(4, 4, quality=0.5), False),
        (block(4, 4, quality=0.49), True),
    ],
)
def test_how_it_ends(next_mask, ended):
    assert has_ended(block(4, 4), next_mask, Following(lowest_quality=0.5, least_overlap=0.25)) is ended


def test_it_does_not_go_on_behind_a_gap():
    masks = column(0, 8, 9)
    masks[5] = NOTHING
    assert list(propagate(Scripted(masks), {2: masks[2]}, 9)) == [0, 1, 2, 3, 4]


def test_two_prompted_slices_share_what_lies_between_them():
    masks = column(0, 8, 9)
    answer = Scripted(masks)
    found = propagate(answer, {2: masks[2], 7: masks[7]}, 9)
    assert list(found) == list(range(9))
    assert torch.equal(answer.asked[4].mask, masks[3].logits)  # from below
    assert torch.equal(answer.asked[5].mask, masks[6].logits)  # from above


def test_a_prompt_that_found_nothing_starts_nothing():
    answer = Scripted(column(0, 8, 9))
    assert propagate(answer, {4: NOTHING}, 9) == {4: NOTHING}
    assert not answer.asked


@given(st.sets(st.integers(0, 19), min_size=1))
def test_wherever_it_is_prompted_an_object_of_all_slices_is_found_whole_and_each_slice_asked_once(seeds):
    masks = [block(4, 4) for _ in range(20)]
    answer = Scripted(masks)
    found = propagate(answer, {number: masks[number] for number in seeds}, 20)
    assert list(found) == list(range(20))
    assert set(answer.asked) == set(range(20)) - seeds
