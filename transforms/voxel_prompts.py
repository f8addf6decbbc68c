"""Prompts in the voxels of an input's file, and the slices, rows and columns of the working volume that they mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from ragsam.errors import InputError
from ragsam.transforms.in_plane import own_grid

#: What a drawn mask is worth as logits: this inside, its negative outside.
MASK_LOGIT = 8.0
_INDICES = "ijk"
_TOLERANCE = 1e-6  # voxels, of rounding in affines
_LARGEST_TURN = 1e-3  # pixels across a voxel that an axis may lean


@dataclass(frozen=True)
class VoxelPoint:
    """A click: array indices of the input's file, whole numbers being voxel centres; in the object or not in it."""

    i: float
    j: float
    k: float
    inside: bool = True


@dataclass(frozen=True)
class VoxelBox:
    """A box around an object: the first and the last index along each array axis of the input's file, both inside.

    It prompts every slice that it reaches.
    """

    i: tuple[float, float]
    j: tuple[float, float]
    k: tuple[float, float]


@dataclass(frozen=True)
class VoxelPrompts:
    """What is known of one object; at least one of the three.

    `mask` [X, Y, Z] is a draft of the object on the input's own grid; it prompts every slice that it is in.
    """

    points: tuple[VoxelPoint, ...] = ()
    box: VoxelBox | None = None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class SlicePoint:
    """A click in a slice: row and column of the working volume, whole numbers being pixel centres."""

    row: float
    column: float
    inside: bool = True


@dataclass(frozen=True)
class SliceBox:
    """A box in a slice: its outermost rows and columns of the working volume, which it holds."""

    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True)
class SlicePrompts:
    """What is known of one object in one slice.

    `mask` [H, W], float, are logits of a draft of the object, `MASK_LOGIT` where it is drawn.
    """

    points: tuple[SlicePoint, ...] = ()
    box: SliceBox | None = None
    mask: Tensor | None = None

    @property
    def ambiguous(self) -> bool:
        """Whether this is a lone click, which may mean a part of an object or the whole."""
        return len(self.points) == 1 and self.box is None and self.mask is None


@dataclass(frozen=True)
class SliceGrid:
    """How the voxels of an input's file are in the working volume made of it: axes are exchanged, flipped and scaled.

    Rows, columns and numbers of slices each depend on one index of the file: `steps * index + origins`.

    Attributes:
        file_shape: (3,), voxels along i, j and k.
        shape: (3,), rows, columns and slices of the working volume.
        axes: (3,), the file's axis that rows, columns and slices run along.
        steps: (3,), pixels from voxel to voxel, negative where the axis is flipped.
        origins: (3,), where index 0 lies.
    """

    file_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    steps: tuple[float, float, float]
    origins: tuple[float, float, float]

    @classmethod
    def of(cls, image: Tensor) -> SliceGrid:
        """Return the grid of a preprocessed volume [1, H, W, D], as `ragsam.transforms.preprocessing` gives it.

        Raises:
            ValueError: a volume that does not know its way back, or was turned by more than an exchange of axes.
        """
        if not isinstance(image, MetaTensor):
            raise ValueError("the image carries no affine, so no voxel of its file can be found in it")
        original = np.asarray(image.meta["original_affine"], dtype=np.float64)
        matrix = np.linalg.solve(np.asarray(image.affine, dtype=np.float64), original)
        axes = np.abs(matrix[:3, :3]).argmax(1)
        steps = matrix[range(3), axes]
        rest = matrix[:3, :3].copy()
        rest[range(3), axes] = 0
        if len(set(axes.tolist())) < 3 or np.abs(rest).max() > _LARGEST_TURN:
            raise ValueError("the working volume is turned against its file; only axes may be exchanged")
        shape = tuple(image.shape[1:])
        own = own_grid(image)
        own_shape = shape if own is None else (*own.shape, shape[2])
        file_shape = np.zeros(3, int)
        file_shape[axes] = own_shape
        origins = matrix[:3, 3]
        return cls(
            tuple(file_shape.tolist()), shape, tuple(axes.tolist()), tuple(steps.tolist()), tuple(origins.tolist())
        )

    def place(self, voxel: Sequence[float]) -> tuple[float, float, float]:
        """Return row, column and slice of a voxel (i, j, k)."""
        turned = np.asarray(voxel, dtype=np.float64)[list(self.axes)]
        return tuple((turned * self.steps + self.origins).tolist())

    def pixel(self, voxel: Sequence[float]) -> tuple[float, float, float]:
        """Return `place`, what lies beyond the outermost pixels' centres brought to them."""
        last = np.array(self.shape) - 1.0
        return tuple(np.clip(self.place(voxel), 0.0, last).tolist())

    def voxel(self, place: Sequence[float]) -> tuple[float, float, float]:
        """Return the voxel (i, j, k) at a row, column and slice: the inverse of `place`."""
        index = np.zeros(3)
        index[list(self.axes)] = (np.asarray(place) - self.origins) / self.steps
        return tuple(index.tolist())

    def file_slice(self, number: int) -> tuple[int, int]:
        """Return a slice's axis in the file, 0 to 2, and its index along that axis."""
        axis = self.axes[2]
        return axis, round(self.voxel((0, 0, number))[axis])

    def require_inside(self, voxel: Sequence[float], what: str) -> None:
        """Refuse a voxel outside the file's volume by an InputError that begins with `what`."""
        for name, index, count in zip(_INDICES, voxel, self.file_shape, strict=True):
            if -0.5 - _TOLERANCE <= index <= count - 0.5 + _TOLERANCE:
                continue
            given = ", ".join(f"{n} {v:g}" for n, v in zip(_INDICES, voxel, strict=True))
            raise InputError(
                f"{what}: ({given}) is outside the volume, whose {name} runs from 0 to {count - 1}; "
                "give array indices of the input's own file, i, j, k"
            )

    def slices(self, voxels: NDArray[np.bool_ | np.uint8]) -> Tensor:
        """Return a mask or labels [X, Y, Z] of the file's voxels on the working volume, [H, W, D], by the nearest."""
        turned = torch.from_numpy(np.ascontiguousarray(voxels.transpose(self.axes)))
        for axis, count in enumerate(self.shape):
            place = torch.arange(count, dtype=torch.float64)
            index = ((place - self.origins[axis]) / self.steps[axis]).round().long()
            turned = turned.index_select(axis, index.clamp(0, turned.shape[axis] - 1))
        return turned


def prompts_by_slice(grid: SliceGrid, prompts: VoxelPrompts, what: str) -> dict[int, SlicePrompts]:
    """Return an object's prompts slice by slice of the working volume.

    Args:
        what: how errors name the object, such as "img0007: liver".

    Raises:
        InputError: no prompt, a voxel outside the volume, a box that ends before it begins, or a mask of another shape.
    """
    points: defaultdict[int, list[SlicePoint]] = defaultdict(list)
    boxes: dict[int, SliceBox] = {}
    masks: dict[int, Tensor] = {}
    for point in prompts.points:
        voxel = (point.i, point.j, point.k)
        grid.require_inside(voxel, f"{what}: point")
        row, column, number = grid.pixel(voxel)
        points[round(number)].append(SlicePoint(row, column, point.inside))
    if prompts.box is not None:
        numbers, box = slice_box(grid, prompts.box, what)
        boxes = dict.fromkeys(numbers, box)
    if prompts.mask is not None:
        if prompts.mask.shape != grid.file_shape:
            raise InputError(
                f"{what}: the mask is {prompts.mask.shape}, the volume {grid.file_shape}; use its own grid"
            )
        mask = grid.slices(prompts.mask)
        for number in torch.nonzero(mask.flatten(0, 1).any(0)).flatten().tolist():
            masks[number] = torch.where(mask[..., number], MASK_LOGIT, -MASK_LOGIT)
    found = {}
    for number in sorted({*points, *boxes, *masks}):
        found[number] = SlicePrompts(tuple(points.get(number, ())), boxes.get(number), masks.get(number))
    if not found:
        raise InputError(f"{what}: no prompt; give points, a box or a mask that is not empty")
    return found


def slice_box(grid: SliceGrid, box: VoxelBox, what: str) -> tuple[range, SliceBox]:
    """Return the slices that a box reaches, and its rows and columns in them.

    Raises:
        InputError: a box outside the volume, or one that ends before it begins.
    """
    ends = (box.i, box.j, box.k)
    for name, (first, last) in zip(_INDICES, ends, strict=True):
        if first > last:
            raise InputError(f"{what}: box: {name} ends at {last:g}, before it begins at {first:g}; exchange them")
    corners = []
    for corner in zip(*ends, strict=True):
        grid.require_inside(corner, f"{what}: box")
        corners.append(grid.pixel(corner))
    top, left, first = np.min(corners, axis=0).tolist()
    bottom, right, last = np.max(corners, axis=0).tolist()
    return range(round(first), round(last) + 1), SliceBox(top, left, bottom, right)
