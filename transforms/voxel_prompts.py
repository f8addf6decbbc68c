"""Prompts in the voxels of an input's file, and the slices, rows and columns of the working volume that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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

    Attributes:
        points, box: see there.
        mask: [X, Y, Z], bool, a draft of the object on the input's own grid; it prompts every slice that it is in.
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

    Attributes:
        points, box: see there.
        mask: [H, W], float, logits of a draft of the object, `MASK_LOGIT` where it is drawn; None where there is none.
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
    """How the voxels of an input's file lie in the working volume made of it: axes are exchanged, flipped and scaled.

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
        if len(set(axes.tolist())) < 3 or np.abs(rest).max() > 1e-3:
            raise ValueError("the working volume is turned against its file; only axes may be exchanged")
        own = own_grid(image)
        shape = tuple(image.shape[1:])
        own_shape = shape if own is None else (*own.shape, shape[2])
        file_shape = [0, 0, 0]
        for axis, count in zip(axes.tolist(), own_shape, strict=True):
            file_shape[axis] = int(count)
        return cls(tuple(file_shape), shape, tuple(axes.tolist()), tuple(steps.tolist()), tuple(matrix[:3, 3].tolist()))

    def place(self, voxel: Sequence[float]) -> tuple[float, float, float]:
        """Return row, column and slice of a voxel (i, j, k)."""
        return tuple(s * voxel[a] + o for a, s, o in zip(self.axes, self.steps, self.origins, strict=True))

    def pixel(self, voxel: Sequence[float]) -> tuple[float, float, float]:
        """Return `place`, what lies beyond the outermost pixels' centres brought to them."""
        return tuple(min(max(at, 0.0), side - 1.0) for at, side in zip(self.place(voxel), self.shape, strict=True))

    def voxel(self, place: Sequence[float]) -> tuple[float, float, float]:
        """Return the voxel (i, j, k) at a row, column and slice: the inverse of `place`."""
        index = [0.0, 0.0, 0.0]
        for axis, step, origin, value in zip(self.axes, self.steps, self.origins, place, strict=True):
            index[axis] = (value - origin) / step
        return tuple(index)

    def file_slice(self, number: int) -> tuple[int, int]:
        """Return a slice's axis in the file, 0 to 2, and its index along that axis."""
        axis = self.axes[2]
        return axis, round(self.voxel((0, 0, number))[axis])

    def require_inside(self, voxel: Sequence[float], what: str) -> None:
        """Refuse a voxel outside the file's volume.

        Raises:
            InputError: with `what`, the indices and their bounds.
        """
        for name, index, count in zip(_INDICES, voxel, self.file_shape, strict=True):
            if not -0.5 - _TOLERANCE <= index <= count - 0.5 + _TOLERANCE:
                given = ", ".join(f"{n} {v:g}" for n, v in zip(_INDICES, voxel, strict=True))
                raise InputError(
                    f"{what}: ({given}) is outside the volume, whose {name} runs from 0 to {count - 1}; "
                    "give array indices of the input's own file, i, j, k"
                )

    def slices(self, voxels: NDArray[np.bool_ | np.uint8]) -> Tensor:
        """Return a mask or labels [X, Y, Z] of the file's voxels on the working volume, [H, W, D], by the nearest."""
        turned = torch.from_numpy(np.ascontiguousarray(voxels.transpose(self.axes)))
        for axis, (step, origin, count) in enumerate(zip(self.steps, self.origins, self.shape, strict=True)):
            index = ((torch.arange(count, dtype=torch.float64) - origin) / step).round().long()
            turned = turned.index_select(axis, index.clamp(0, turned.shape[axis] - 1))
        return turned


@dataclass
class _Gathered:
    points: list[SlicePoint] = field(default_factory=list)
    box: SliceBox | None = None
    mask: Tensor | None = None


def prompts_by_slice(grid: SliceGrid, prompts: VoxelPrompts, what: str) -> dict[int, SlicePrompts]:
    """Return an object's prompts slice by slice of the working volume.

    Args:
        grid: of the volume.
        prompts: in voxels of its file.
        what: how errors name the object, such as "img0007: liver".

    Raises:
        InputError: no prompt, a voxel outside the volume, a box that ends before it begins, or a mask of another shape.
    """
    found: dict[int, _Gathered] = {}
    for point in prompts.points:
        voxel = (point.i, point.j, point.k)
        grid.require_inside(voxel, f"{what}: point")
        row, column, number = grid.pixel(voxel)
        gathered = found.setdefault(round(number), _Gathered())
        gathered.points.append(SlicePoint(row, column, point.inside))
    if prompts.box is not None:
        numbers, box = slice_box(grid, prompts.box, what)
        for number in numbers:
            found.setdefault(number, _Gathered()).box = box
    if prompts.mask is not None:
        if prompts.mask.shape != grid.file_shape:
            raise InputError(
                f"{what}: the mask is {prompts.mask.shape}, the volume {grid.file_shape}; use its own grid"
            )
        mask = grid.slices(prompts.mask)
        for number in torch.nonzero(mask.flatten(0, 1).any(0)).flatten().tolist():
            found.setdefault(number, _Gathered()).mask = torch.where(mask[..., number], MASK_LOGIT, -MASK_LOGIT)
    if not found:
        raise InputError(f"{what}: no prompt; give points, a box or a mask that is not empty")
    return {n: SlicePrompts(tuple(one.points), one.box, one.mask) for n, one in sorted(found.items())}


def slice_box(grid: SliceGrid, box: VoxelBox, what: str) -> tuple[range, SliceBox]:
    """Return the slices that a box reaches, and its rows and columns in them.

    Raises:
        InputError: a box outside the volume, or one that ends before it begins.
    """
    for name in _INDICES:
        first, last = getattr(box, name)
        if first > last:
            raise InputError(f"{what}: box: {name} ends at {last:g}, before it begins at {first:g}; exchange them")
    corners = [(box.i[end], box.j[end], box.k[end]) for end in (0, 1)]
    for corner in corners:
        grid.require_inside(corner, f"{what}: box")
    (top, bottom), (left, right), (first, last) = (
        sorted(pair) for pair in zip(*(grid.pixel(corner) for corner in corners), strict=True)
    )
    return range(round(first), round(last) + 1), SliceBox(top, left, bottom, right)
