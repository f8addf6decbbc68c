"""Stray pieces and holes, worked out on small volumes by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import FillHoles

from ragsam.transforms import postprocessing
from ragsam.transforms.components import fill_organ_holes, keep_pieces


def row(*values):
    """Return a label volume [len, 1, 1]."""
    return np.array(values, np.uint8).reshape(-1, 1, 1)


#: Pieces of organ 1 with 3, 2 and 1 voxels; organ 2 in two pieces of one.
SCENE = row(1, 1, 1, 0, 1, 1, 0, 1, 0, 2, 0, 2)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ({}, SCENE),
        ({1: (1, 0.0)}, row(1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 0, 2)),
        ({1: (2, 0.0)}, row(1, 1, 1, 0, 1, 1, 0, 0, 0, 2, 0, 2)),
        ({1: (9, 0.0)}, SCENE),
        ({1: (None, 1.0)}, row(1, 1, 1, 0, 1, 1, 0, 0, 0, 2, 0, 2)),  # of half a ml a voxel: 1 ml stays
        ({1: (None, 9.0)}, row(1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 0, 2)),  # the largest always stays
        ({1: (2, 1.1)}, row(1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 0, 2)),
        ({2: (1, 0.0)}, row(1, 1, 1, 0, 1, 1, 0, 1, 0, 2, 0, 0)),  # of two alike the first one
        ({3: (1, 0.0)}, SCENE),  # an organ that is not there
    ],
)
def test_pieces_by_hand(pieces, expected):
    before = SCENE.copy()
    np.testing.assert_array_equal(keep_pieces(SCENE, pieces, voxel_ml=0.5), expected)
    np.testing.assert_array_equal(SCENE, before)


def test_voxels_that_touch_at_a_corner_are_one_piece():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    np.testing.assert_array_equal(keep_pieces(labels, {1: (1, 0.0)}, 1.0), labels)


def test_nothing_is_found_in_an_empty_volume():
    empty = np.zeros((3, 3, 3), np.uint8)
    assert not keep_pieces(empty, {1: (1, 0.0)}, 1.0).any()
    assert not fill_organ_holes(empty).any()


def test_holes_by_hand():
    """A shell of organ 1 encloses a voxel of background and one of organ 2; another hole is open to the outside."""
    labels = np.zeros((5, 5, 8), np.uint8)
    labels[1:4, 1:4, 1:6] = 1
    labels[2, 2, 2], labels[2, 2, 4] = 0, 2
    expected = labels.copy()
    expected[2, 2, 2] = 1
    np.testing.assert_array_equal(fill_organ_holes(labels), expected)
    labels[2, 2, 1] = expected[2, 2, 1] = expected[2, 2, 2] = 0
    np.testing.assert_array_equal(fill_organ_holes(labels), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.tuples(*[st.integers(1, 9)] * 3))
def test_holes_of_a_single_organ_are_those_that_monai_fills(seed, shape):
    labels = (np.random.default_rng(seed).random(shape) < 0.8).astype(np.uint8)
    theirs = FillHoles(connectivity=1)(torch.from_numpy(labels)[None].clone())[0].numpy()
    np.testing.assert_array_equal(fill_organ_holes(labels), theirs)


def test_the_chain_goes_by_the_volume_of_its_voxels():
    """Voxels of 1000 cubic mm, 1 ml each: as a MetaTensor by its own affine, else by the image's."""
    affine = torch.diag(torch.tensor([-10.0, 10.0, 10.0, 1.0]))
    pred, chain = torch.from_numpy(SCENE)[None], postprocessing(restore_grid=False, pieces={1: (None, 2.0)})
    image = MetaTensor(torch.zeros(pred.shape), affine=affine)
    expected = row(1, 1, 1, 0, 1, 1, 0, 0, 0, 2, 0, 2)
    for item in ({"pred": pred, "image": image}, {"pred": MetaTensor(pred, affine=affine)}):
        done = chain(item)["pred"]
        assert done.dtype == torch.uint8
        np.testing.assert_array_equal(np.asarray(done)[0], expected)
    assert torch.equal(MetaTensor(pred, affine=affine).affine, done.affine)


def test_pieces_go_before_holes():
    """A stray voxel within a shell is taken out, and what is left is a hole that is filled."""
    labels = np.ones((5, 5, 5), np.uint8)
    labels[1:4, 1:4, 1:4] = 0
    labels[2, 2, 2] = 1
    affine = torch.eye(4)
    done = postprocessing(restore_grid=False, pieces={1: (1, 0.0)}, fill_holes=True)(
        {"pred": MetaTensor(torch.from_numpy(labels)[None], affine=affine)}
    )
    assert (np.asarray(done["pred"]) == 1).all()
