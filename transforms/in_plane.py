"""Resampling within slices, a few slices at a time: a volume to a spacing, and whatever was made of it back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys
from torch import Tensor

_SLAB = 32  # slices, which bounds what is beside the two volumes
_TOLERANCE_MM = 1e-3  # a spacing this near is kept, as MONAI's Spacing does


@dataclass(frozen=True)
class OwnGrid:
    """The grid that a volume's slices had before they were resampled.

    Attributes:
        shape: (2,), pixels.
        steps: (2,), from pixel to pixel of this grid, in pixels of the resampled one; both begin at the same pixel.
        affine: (4, 4), of the volume on this grid.
    """

    shape: tuple[int, int]
    steps: tuple[float, float]
    affine: Tensor

    def restore(self, slices: Tensor) -> Tensor:
        """Return slices [..., H, W] of the resampled grid on this one."""
        return resample_slices(slices, self.shape, self.steps)


class InPlaneSpacingd(MapTransform, InvertibleTransform):
    """Resamples a volume [1, H, W, D] to a spacing within its slices, linearly; slices are never resampled across.

    The same as MONAI's `Spacingd(pixdim=(x, y, -1), mode="bilinear")` but for the rounding of its coordinates. MONAI's
    holds the coordinates of every voxel at once: 5 GB for 512 x 512 x 800.

    Args:
        key: of the volume, a MetaTensor.
        spacing_mm: (2,), along H and W.
        device: where the slices are resampled, `_SLAB` of them at a time; None takes the volume's own. The volume stays
            where it is.
    """

    def __init__(self, key: str, spacing_mm: Sequence[float], *, device: torch.device | str | None = None) -> None:
        super().__init__(key)
        self.spacing_mm = (float(spacing_mm[0]), float(spacing_mm[1]))
        self.device = device

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the volume resampled, and on it what it was before."""
        items = dict(data)
        key = self.keys[0]
        image = items[key]
        shape = []
        steps = []
        old_spacing_mm = image.affine[:3, :2].double().norm(dim=0).tolist()
        for side, old_mm, new_mm in zip(image.shape[1:3], old_spacing_mm, self.spacing_mm, strict=True):
            step = 1.0 if abs(old_mm - new_mm) <= _TOLERANCE_MM else new_mm / old_mm
            steps.append(step)
            shape.append(round((side - 1) / step + 1))
        moved = image
        if steps != [1.0, 1.0]:
            affine = image.affine.clone()
            affine[:3, :2] *= torch.tensor(steps, dtype=affine.dtype)
            moved = _like(image, _resampled(image.as_tensor(), shape, steps, self.device), affine)
        about = {"src_affine": image.affine, "steps": tuple(1 / step for step in steps)}
        self.push_transform(moved, orig_size=tuple(image.shape[1:]), extra_info=about)
        items[key] = moved
        return items

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the volume, or logits [K + 1, H, W, D], on the volume's own grid."""
        items = dict(data)
        key = self.keys[0]
        own = _own_grid(self.pop_transform(items[key]))
        restored = _resampled(items[key].as_tensor(), own.shape, own.steps)
        items[key] = _like(items[key], restored, own.affine)
        return items


def own_grid(image: Tensor) -> OwnGrid | None:
    """Return the grid that a volume's slices had before `InPlaneSpacingd`; None if it was not applied."""
    for operation in getattr(image, "applied_operations", ()):
        if operation[TraceKeys.CLASS_NAME] == InPlaneSpacingd.__name__:
            return _own_grid(operation)
    return None


def _own_grid(operation: Mapping[str, Any]) -> OwnGrid:
    about = operation[TraceKeys.EXTRA_INFO]
    height, width, _ = operation[TraceKeys.ORIG_SIZE]
    return OwnGrid((int(height), int(width)), about["steps"], about["src_affine"])


def _like(image: MetaTensor, voxels: Tensor, affine: Tensor) -> MetaTensor:
    made = MetaTensor(voxels, meta={**image.meta, "affine": affine})
    made.applied_operations = image.applied_operations
    return made


def _resampled(
    volume: Tensor, shape: Sequence[int], steps: Sequence[float], device: torch.device | str | None = None
) -> Tensor:
    """Return a volume [C, H, W, D] with its slices resampled: [C, *shape, D], float32; see `InPlaneSpacingd`."""
    moved = torch.empty((len(volume), *shape, volume.shape[-1]), dtype=torch.float32, device=volume.device)
    for slab, part in zip(volume.split(_SLAB, -1), moved.split(_SLAB, -1), strict=True):
        part.copy_(resample_slices(slab.to(device).movedim(-1, 0).float(), shape, steps).movedim(0, -1))
    return moved


def resample_slices(
    slices: Tensor, shape: Sequence[int], steps: Sequence[float], origins: Sequence[float] = (0.0, 0.0)
) -> Tensor:
    """Resample slices [..., H, W] linearly, one axis after the other.

    A new pixel i is at `origin + step * i` in old pixels; beyond the border the outermost pixel continues.

    Args:
        shape: (2,), of the result.
        steps, origins: (2,), along H and W.

    Returns:
        [..., *shape], of the same type.
    """
    for axis, size, step, origin in zip((-2, -1), shape, steps, origins, strict=True):
        last = slices.shape[axis] - 1
        if (size, step, origin) == (last + 1, 1.0, 0.0):
            continue
        place = (origin + step * torch.arange(size, dtype=torch.float64)).clamp(0, last)
        lower = place.floor()
        share = (place - lower).to(slices)
        if axis == -2:
            share = share[:, None]
        lower = lower.long().to(slices.device)
        upper = (lower + 1).clamp(max=last)
        slices = torch.lerp(slices.index_select(axis, lower), slices.index_select(axis, upper), share)
    return slices
