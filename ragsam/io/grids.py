"""Whether two volumes are on one grid in the world, in whatever order and direction their axes are stored."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

#: How far a grid's corners may lie from the other's, in parts of the smallest side of a voxel.
TOLERANCE = 0.02


class OtherGridError(ValueError):
    """A volume that is on another grid; says how it differs."""


@dataclass(frozen=True)
class Grid:
    """Where voxels lie.

    Attributes:
        shape: (3,), voxels.
        affine: (4, 4), voxel to mm.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, image: SpatialImage) -> Grid:
        """Return the grid of an image."""
        return cls(tuple(map(int, image.shape)), np.asarray(image.affine, np.float64))


@dataclass(frozen=True)
class Turn:
    """How the axes of a volume are put in another order and direction.

    Attributes:
        axes: (3, 2), an orientation of nibabel's: the axis each becomes, and 1, or -1 where it is flipped.
    """

    axes: NDArray[np.int64]

    @property
    def is_none(self) -> bool:
        """Whether all axes stay as they are."""
        return np.array_equal(self.axes, [[0, 1], [1, 1], [2, 1]])

    def __call__(self, array: NDArray) -> NDArray:
        """Return an array [X, Y, Z] turned."""
        return array if self.is_none else nibabel.apply_orientation(array, self.axes)


def turn_onto(grid: Grid, target: Grid) -> Turn:
    """Return what turns a volume on a grid so that its voxels are in the order of the target's.

    Raises:
        OtherGridError: in no order do its voxels lie where the target's do, to `TOLERANCE` at the corners.
    """
    to_target = np.linalg.solve(target.affine, grid.affine)[:3, :3]
    nearest = np.rint(to_target)
    if not np.array_equal(np.abs(nearest).sum(0), np.ones(3)) or not np.array_equal(np.abs(nearest).sum(1), np.ones(3)):
        raise OtherGridError(_unlike_axes(grid, target))
    towards = np.abs(nearest).argmax(0)
    axes = np.column_stack([towards, nearest[towards, range(3)]]).astype(np.int64)
    shape = tuple(grid.shape[axis] for axis in np.argsort(towards))
    if shape != target.shape:
        raise OtherGridError(f"its shape is {grid.shape}, not {target.shape}")
    turned = grid.affine @ nibabel.orientations.inv_ornt_aff(axes, grid.shape)
    apart_mm = _corners_apart_mm(turned, target)
    if not apart_mm <= TOLERANCE * np.linalg.norm(target.affine[:3, :3], axis=0).min():
        raise OtherGridError(f"it is up to {apart_mm:.3g} mm away")
    return Turn(axes)


def _unlike_axes(grid: Grid, target: Grid) -> str:
    sizes, wanted = map(_voxel_sizes, (grid, target))
    if sizes != wanted:
        return f"its voxels are {sizes} mm, not {wanted}"
    return "its axes run in other directions"


def _voxel_sizes(grid: Grid) -> str:
    return " x ".join(f"{side:.4g}" for side in nibabel.affines.voxel_sizes(grid.affine))


def _corners_apart_mm(affine: NDArray[np.float64], target: Grid) -> float:
    """Return how far the corner voxels of a grid lie from the target's, at most."""
    corners = np.array([(*corner, 1) for corner in product(*((0, side - 1) for side in target.shape))])
    apart = corners @ (affine - target.affine).T
    return float(np.linalg.norm(apart[:, :3], axis=1).max())
