"""How two label volumes of one image agree, slice by slice and organ by organ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def slice_agreement(
    first: NDArray[np.integer], second: NDArray[np.integer], num_classes: int, axis: int
) -> NDArray[np.float64]:
    """Return the Dice of every class in every slice: [slices, K + 1].

    Args:
        first, second: label maps [X, Y, Z] of one grid.
        num_classes: organs K; background is class 0.
        axis: of the array, which the slices lie across.

    Returns:
        0 to 1; 1 where neither has the class in that slice: both say that it is not there.

    Raises:
        ValueError: label maps of different shapes.
    """
    if first.shape != second.shape:
        raise ValueError(f"label maps of {first.shape} and {second.shape}")
    planes = [np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1) for labels in (first, second)]
    agreement = np.ones((first.shape[axis], num_classes + 1))
    for value in range(num_classes + 1):
        own, other = (plane == value for plane in planes)
        both = np.count_nonzero(own & other, axis=1)
        either = np.count_nonzero(own, axis=1) + np.count_nonzero(other, axis=1)
        found = either > 0
        agreement[found, value] = 2 * both[found] / either[found]
    return agreement
