"""Grids compared in the world: any order of the axes, a small share of a voxel; worked out by hand."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from ragsam.io.grids import Grid, OtherGridError, turn_onto

#: Voxels of 2 x 3 x 5 mm, turned by 30 degrees about z.
AFFINE = np.array([[1.7320508, -1.5, 0, -30], [1, 2.5980762, 0, 40], [0, 0, 5, 100], [0, 0, 0, 1.0]])
VOXELS = np.arange(24).reshape(2, 3, 4)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
def test_every_order_and_direction_of_the_axes_is_turned_to_the_target(order, flips):
    image = nib.Nifti1Image(VOXELS.astype(np.int16), AFFINE)
    stored = image.as_reoriented(np.column_stack([order, flips]))
    turn = turn_onto(Grid.of(stored), Grid.of(image))
    assert np.array_equal(turn(np.asarray(stored.dataobj)), VOXELS)
    assert turn.is_none == (order == (0, 1, 2) and flips == (1, 1, 1))


def test_a_small_share_of_a_voxel_is_no_difference_and_more_is():
    """The smallest side is 2 mm, of which 2 % are 0.04 mm, at the corner that is farthest."""
    target = Grid((2, 3, 4), AFFINE)
    for off_mm, same in ((0.002, True), (0.039, True), (0.041, False)):
        moved = AFFINE.copy()
        moved[0, 3] += off_mm
        if same:
            assert turn_onto(Grid((2, 3, 4), moved), target).is_none
            continue
        with pytest.raises(OtherGridError, match=r"it is up to 0\.041 mm away"):
            turn_onto(Grid((2, 3, 4), moved), target)
    stretched = AFFINE.copy()
    stretched[2, 2] += 0.01  # 0.03 mm at the fourth slice, 3 mm at the 301st
    assert turn_onto(Grid((2, 3, 4), stretched), target).is_none
    with pytest.raises(OtherGridError, match="it is up to 3 mm away"):
        turn_onto(Grid((2, 3, 301), stretched), Grid((2, 3, 301), AFFINE))


def test_other_shapes_voxels_and_directions_are_named():
    target = Grid((2, 3, 4), AFFINE)
    with pytest.raises(OtherGridError, match=r"its shape is \(2, 3, 5\), not \(2, 3, 4\)"):
        turn_onto(Grid((2, 3, 5), AFFINE), target)
    with pytest.raises(OtherGridError, match="its voxels are 4 x 6 x 10 mm, not 2 x 3 x 5"):
        turn_onto(Grid((2, 3, 4), AFFINE @ np.diag([2, 2, 2, 1])), target)
    upright = np.diag([2.0, 3, 5, 1])
    upright[:3, 3] = AFFINE[:3, 3]
    with pytest.raises(OtherGridError, match="its axes run in other directions"):
        turn_onto(Grid((2, 3, 4), upright), target)
    tilted = upright @ np.array([[0, 0.6, -0.8, 0], [0, 0.8, 0.6, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    with pytest.raises(OtherGridError):
        turn_onto(Grid((4, 2, 3), tilted), target)
    # A cube of 90 degrees about z lies elsewhere: its corner voxel is at another corner.
    quarter = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with pytest.raises(OtherGridError, match="mm away"):
        turn_onto(Grid((3, 3, 3), quarter), Grid((3, 3, 3), np.eye(4)))
