"""Dice, IoU and volume, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from ragsam.metrics.overlap import dice, iou, volume_ml

MASKS = arrays(bool, (3, 4, 2))


def test_dice_of_two_of_three_voxels():
    reference, prediction = np.zeros((4, 1, 1), bool), np.zeros((4, 1, 1), bool)
    reference[:2] = True
    prediction[1:2] = True
    assert dice(reference, prediction) == pytest.approx(2 / 3)
    assert iou(reference, prediction) == pytest.approx(1 / 2)


def test_both_empty_has_no_dice_and_one_empty_has_zero():
    empty, full = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    assert dice(empty, empty) is None
    assert iou(empty, empty) is None
    assert dice(empty, full) == dice(full, empty) == 0.0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        dice(np.ones((2, 2, 2), bool), np.ones((2, 2, 1), bool))


def test_volume_of_ten_anisotropic_voxels():
    assert volume_ml(10, (0.7, 0.7, 5.0)) == pytest.approx(0.0245)


@given(MASKS, MASKS)
@settings(max_examples=60, deadline=None)
def test_symmetric_in_range_and_tied_to_iou(first, second):
    value, other = dice(first, second), iou(first, second)
    assert value == dice(second, first)
    if value is not None:
        assert 0 <= value <= 1
        assert value == pytest.approx(2 * other / (1 + other))


@given(MASKS)
@settings(max_examples=30, deadline=None)
def test_identity_is_one(mask):
    assert dice(mask, mask) == (1.0 if mask.any() else None)
