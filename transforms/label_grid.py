"""Labels on a resampled grid: organ by organ, so that thin ones are not lost."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor


class LabelToGridd(MapTransform):
    """Brings `label` onto the grid that `image` was resampled to, by `resample_labels`.

    Both must have lain on one grid before, and the new one may differ from it within slices alone.
    """

    def __init__(self, label: str = "label", image: str = "image") -> None:
        super().__init__(label)
        self.image = image

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the label [1, H, W, D] on the image's grid."""
        items = dict(data)
        image, label = items[self.image], items[self.keys[0]]
        # New index to old index: resampling within slices leaves this matrix diagonal.
        matrix = torch.linalg.solve(label.affine.double(), image.affine.double())
        _, new_rows, new_columns, _ = image.shape
        _, old_rows, old_columns, _ = label.shape
        rows = coverage(new_rows, old_rows, matrix[0, 0].item(), matrix[0, 3].item())
        columns = coverage(new_columns, old_columns, matrix[1, 1].item(), matrix[1, 3].item())
        moved = resample_labels(label.as_tensor()[0].round(), rows.float(), columns.float())
        items[self.keys[0]] = MetaTensor(moved[None].to(label.dtype), affine=image.affine)
        return items


def coverage(new: int, old: int, scale: float, origin: float) -> Tensor:
    """Return how far each old pixel of an axis makes up each new one: [new, old], rows summing to 1.

    A new pixel is at `scale * i + origin` in old pixels. It includes what it covers; where it is smaller than an old
    pixel that is linear interpolation. Beyond the border the outermost pixel continues.
    """
    centre = (scale * torch.arange(new, dtype=torch.float64) + origin).clamp(0, old - 1)[:, None]
    pixel = torch.arange(old, dtype=torch.float64)
    half = max(1.0, scale) / 2
    shared = torch.minimum(centre + half, pixel + 0.5) - torch.maximum(centre - half, pixel - 0.5)
    shared = shared.clamp(min=0)
    return shared / shared.sum(1, keepdim=True)


def resample_labels(label: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Resample a label map within its slices.

    A pixel that organs cover by at least half goes to the one that covers most of it. Then every organ that came out
    smaller in a slice than it was takes the pixels that it covers most, up to its area: an organ thinner than a pixel
    keeps its place in every slice that it was in.

    Args:
        label: [H, W, D], whole numbers from 0.
        rows, columns: [H', H] and [W', W] of `coverage`.

    Returns:
        [H', W', D], int64.
    """
    shape = (len(rows), len(columns), label.shape[2])
    organs = [int(value) for value in label.unique() if value > 0]
    shares = {organ: torch.einsum("ih,hwd,jw->ijd", rows, (label == organ).float(), columns) for organ in organs}
    covered = torch.zeros(shape)
    most = torch.zeros(shape)
    result = torch.zeros(shape, dtype=torch.int64)
    for organ, share in shares.items():
        result[share > most] = organ
        most = torch.maximum(most, share)
        covered = covered + share
    result[covered < 0.5] = 0
    for organ in sorted(organs, key=lambda organ: -float(shares[organ].sum())):  # the smallest has the last word
        _keep_area(result, organ, shares[organ])
    return result


def _keep_area(result: Tensor, organ: int, share: Tensor) -> None:
    """Give an organ, slice by slice, the background pixels that it lacks of its area, where it covers any.

    An organ that has no pixel at all, and no background to take, takes one from its neighbours.
    """
    areas = share.sum((0, 1)).round().long()
    areas[(share > 0).flatten(0, 1).any(0) & (areas == 0)] = 1
    lacking = areas - (result == organ).sum((0, 1))
    for z in torch.nonzero(lacking > 0).flatten().tolist():
        plane = result[:, :, z]
        covered = share[:, :, z]
        count = int(lacking[z])
        free = plane == 0
        if not (plane == organ).any() and not (covered[free] > 0).any():
            free = plane != organ
            count = 1
        order = torch.where(free, covered, 0.0).flatten().topk(count)
        chosen = order.indices[order.values > 0]
        plane[chosen // plane.shape[1], chosen % plane.shape[1]] = organ
