"""Boxes around labels: those of scipy, whatever the memory order, the number type and the number of labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import find_objects

from ragsam.metrics.boxes import common_boxes


def expected(labels, highest):
    kept = np.where((labels < 0) | (labels > highest), 0, labels).astype(np.int64)
    return {value: box for value, box in enumerate(find_objects(kept, highest), start=1) if box is not None}


@given(st.integers(0, 999), st.sampled_from(["uint8", "int16", "uint16", "int32", "int64"]), st.booleans(),
       st.sampled_from([1, 7, 13, 15, 16, 31, 63, 64, 100]))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_one_volume_has_the_boxes_of_scipy(seed, kind, turned, highest):
    rng = np.random.default_rng(seed)
    labels = np.zeros((6, 7, 8), kind)
    places = tuple(rng.integers(0, n, 5) for n in labels.shape)
    labels[places] = rng.integers(-3 if np.issubdtype(kind, np.signedinteger) else 0, 120, 5)
    labels = np.asfortranarray(labels) if turned else labels
    assert common_boxes([labels], highest) == expected(labels, highest)


def test_two_volumes_have_the_box_around_both():
    first, second = np.zeros((5, 5, 5), np.uint8), np.zeros((5, 5, 5), np.uint8)
    first[1, 1, 1], second[3, 2, 1], second[4, 4, 4] = 2, 2, 3
    assert common_boxes([first, second], 3) == {
        2: (slice(1, 4), slice(1, 3), slice(1, 2)), 3: (slice(4, 5),) * 3,
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(4, 4, 4), (0, 4, 4)])
def test_nothing_has_no_box(shape):
    assert common_boxes([np.zeros(shape, np.uint8)], 13) == {}
