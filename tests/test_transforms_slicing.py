"""Slices with their neighbours, and windows of a slice: the same in training, bank and inference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference

from ragsam.errors import InputError
from ragsam.transforms.slicing import (
    WINDOW_OVERLAP,
    context_offsets,
    pad_to_window,
    slice_channels,
    slice_height,
    slice_spacing_mm,
    slice_windows,
)

SIDES = st.integers(1, 90)


def context_channels(volume, offsets):
    """Return the channels of all slices: [len(offsets), ..., H, W, D]."""
    return torch.stack([slice_channels(volume, z, offsets) for z in range(volume.shape[-1])], dim=-1)


def test_the_neighbours_by_hand():
    """Three slices 10, 20, 30: beyond the ends the outermost one is repeated."""
    volume = torch.tensor([10.0, 20.0, 30.0]).expand(2, 2, 3)
    assert context_channels(volume, context_offsets(1))[:, 0, 0].tolist() == [[10, 10, 20], [10, 20, 30], [20, 30, 30]]
    assert context_channels(volume, context_offsets(0))[:, 0, 0].tolist() == [[10, 20, 30]] * 3


@pytest.mark.parametrize(
    ("slices", "distance_mm", "spacing_mm", "offsets"),
    [
        (0, None, 2.0, (0.0, 0.0, 0.0)),
        (0, 5.0, 2.0, (0.0, 0.0, 0.0)),
        (1, None, 7.0, (-1.0, 0.0, 1.0)),
        (1, 3.0, 2.0, (-1.5, 0.0, 1.5)),
        (2, 5.0, 2.5, (-4.0, -2.0, 0.0, 2.0, 4.0)),
    ],
)
def test_offsets_by_hand(slices, distance_mm, spacing_mm, offsets):
    assert context_offsets(slices, distance_mm=distance_mm, spacing_mm=spacing_mm) == offsets


@pytest.mark.parametrize("options", [{"context_slices": -1}, {"context_slices": 1, "distance_mm": 0.0}])
def test_a_context_that_is_none_is_refused(options):
    with pytest.raises(InputError, match="must"):
        context_offsets(**options)


def test_a_plane_between_two_slices_by_hand():
    """Slices 2 mm apart of 10, 20 and 30; planes 3 mm away lie half-way to the next but one, or beyond the end."""
    volume = torch.tensor([10.0, 20.0, 30.0, 50.0]).expand(1, 1, 4).half()
    offsets = context_offsets(1, distance_mm=3.0, spacing_mm=2.0)
    assert context_channels(volume, offsets)[:, 0, 0].tolist() == [[10, 10, 15, 25], [10, 20, 30, 50], [25, 40, 50, 50]]


@pytest.mark.parametrize("batched", [False, True])
def test_the_spacing_across_slices_is_that_of_the_affine(batched):
    affine = np.array([[0, 0, 3.0, 1], [0.5, 0, 0, 2], [0, 0.7, 4.0, 3], [0, 0, 0, 1]])
    volume = MetaTensor(torch.zeros(1, 2, 2, 2), affine=affine)
    assert slice_spacing_mm(volume[None] if batched else volume) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="carries no affine"):
        slice_spacing_mm(volume.as_tensor())


def test_leading_axes_are_kept():
    assert context_channels(torch.rand(2, 1, 4, 6, 5), context_offsets(1)).shape == (3, 2, 1, 4, 6, 5)


@pytest.mark.parametrize("context", [1, 0])
def test_a_volume_of_one_slice_is_its_own_neighbour(context):
    volume = torch.rand(4, 4, 1)
    assert torch.equal(slice_channels(volume, 0, context_offsets(context)), volume.permute(2, 0, 1).expand(3, 4, 4))


@pytest.mark.parametrize(
    ("index", "count", "height"), [(0, 5, 0.0), (4, 5, 1.0), (2, 5, 0.5), (1, 5, 0.25), (0, 1, 0.5)]
)
def test_height_by_hand(index, count, height):
    assert slice_height(index, count) == height


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(1, 40))
def test_windows_cover_every_pixel_and_stay_inside(rows, columns, window):
    covered = torch.zeros(rows, columns, dtype=torch.int64)
    for part in slice_windows((rows, columns), window):
        assert covered[part].shape == (min(rows, window), min(columns, window))
        covered[part] += 1
    assert covered.min() >= 1


def test_a_slice_that_fits_is_one_window():
    assert slice_windows((30, 64), 64) == [(slice(0, 30), slice(0, 64))]


def test_windows_by_hand():
    """Side 10, window 4, a quarter shared: steps of 3 pixels, the last one ends at the border."""
    starts = [window[1].start for window in slice_windows((4, 10), 4)]
    assert WINDOW_OVERLAP == 0.25
    assert starts == [0, 3, 6]
    assert [window[1].start for window in slice_windows((4, 11), 4)] == [0, 3, 6, 7]


@settings(deadline=None, max_examples=25)
@given(SIDES, SIDES, st.integers(4, 40))
def test_the_windows_of_the_bank_are_those_of_inference(rows, columns, window):
    """Every pixel carries its own number; MONAI's sliding window must show the very same windows."""
    image = torch.arange(1.0, rows * columns + 1).reshape(1, 1, rows, columns)
    shown = []

    def network(batch):
        shown.extend(tuple(part.flatten().tolist()) for part in batch)
        return batch

    out = sliding_window_inference(image, (window, window), 8, network, overlap=WINDOW_OVERLAP, mode="gaussian")
    ours = {
        tuple(pad_to_window(image[0, 0][part], window).flatten().tolist())
        for part in slice_windows((rows, columns), window)
    }
    assert ours == set(shown)
    torch.testing.assert_close(out, image)


@pytest.mark.parametrize(("shape", "padded"), [((3, 5, 7), (3, 8, 8)), ((8, 9), (8, 9)), ((1, 2, 20), (1, 8, 20))])
def test_padding_fills_up_to_the_window_and_never_cuts(shape, padded):
    assert pad_to_window(torch.ones(shape), 8).shape == padded
    assert pad_to_window(torch.ones(shape), 8).sum() == torch.ones(shape).sum()


def test_padding_by_hand():
    """Two pixels in a window of five: one before, two after; the odd one goes to the end."""
    assert pad_to_window(torch.tensor([[1, 2]]), 5)[2].tolist() == [0, 1, 2, 0, 0]
