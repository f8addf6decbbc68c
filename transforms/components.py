"""Label volumes tidied organ by organ: stray pieces taken out, holes filled."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, find_objects, generate_binary_structure, label

_CORNERS = generate_binary_structure(3, 3)  # voxels that touch at a corner are one piece


class KeepPiecesd(MapTransform):
    """Keeps of every organ the pieces that `keep_pieces` keeps, in `pred` [1, X, Y, Z]."""

    def __init__(self, pieces: Mapping[int, tuple[int | None, float]], key: str = "pred", image: str = "image") -> None:
        super().__init__(key)
        self.pieces = {int(value): rule for value, rule in pieces.items()}
        self.image = image

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with stray pieces turned to background."""
        items = dict(data)
        for key in self.key_iterator(items):
            volume = items[key]
            image = volume if isinstance(volume, MetaTensor) else items[self.image]
            voxel_ml = float(image.affine[:3, :3].double().det().abs()) / 1000
            labels = np.asarray(volume.cpu())[0]
            items[key] = _like(volume, keep_pieces(labels, self.pieces, voxel_ml))
        return items


class FillOrganHolesd(MapTransform):
    """Fills the holes of every organ in `pred` [1, X, Y, Z], see `fill_organ_holes`."""

    def __init__(self, key: str = "pred") -> None:
        super().__init__(key)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with holes filled."""
        items = dict(data)
        for key in self.key_iterator(items):
            labels = np.asarray(items[key].cpu())[0]
            items[key] = _like(items[key], fill_organ_holes(labels))
        return items


def keep_pieces(
    labels: NDArray[np.uint8], pieces: Mapping[int, tuple[int | None, float]], voxel_ml: float
) -> NDArray[np.uint8]:
    """Return a label volume in which every organ has no more pieces than it may have.

    MONAI's KeepLargestConnectedComponent needs scikit-image, keeps as many pieces of every organ, and looks through
    the whole volume for each; this looks within the organ's box.

    Args:
        labels: [X, Y, Z].
        pieces: by label value (most, above_ml): so many of the largest pieces are kept, None for all, and of them
            those of at least `above_ml`. The largest piece always stays, and an organ that is not named is left alone.
    """
    kept = labels.copy()
    for value, box in _boxes(labels):
        if value not in pieces:
            continue
        most, above_ml = pieces[value]
        parts, count = label(labels[box] == value, _CORNERS)
        sizes = _sizes(parts, count)
        largest_first = np.argsort(-sizes, kind="stable")
        chosen = largest_first[:most]
        stays = np.zeros(count + 1, bool)
        stays[1 + chosen] = sizes[chosen] * voxel_ml >= above_ml
        stays[1 + largest_first[0]] = True
        stays[0] = True  # what is no part of the organ
        kept[box][~stays[parts]] = 0
    return kept


def fill_organ_holes(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a label volume in which background that one organ encloses is the organ's.

    Another organ that lies inside stays what it is; MONAI's FillHoles would overwrite it.
    """
    filled = labels.copy()
    for value, box in _boxes(labels):
        whole = binary_fill_holes(labels[box] == value)
        filled[box][whole & (labels[box] == 0)] = value
    return filled


def _sizes(parts: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return the voxels of pieces 1 to count; a bit of the volume at a time, since bincount widens to 64 bits."""
    voxels = np.zeros(count + 1, np.int64)
    for bit in np.array_split(parts, 16):
        voxels += np.bincount(bit.ravel(), minlength=count + 1)
    return voxels[1:]


def _boxes(labels: NDArray[np.uint8]) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yield the values of a label volume with the boxes that hold them."""
    for value, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            yield value, box


def _like(volume: torch.Tensor, labels: NDArray[np.uint8]) -> torch.Tensor:
    """Return labels as a tensor of the same kind, on the same device."""
    edited = torch.from_numpy(labels)[None].to(volume.device)
    return MetaTensor(edited, meta=volume.meta) if isinstance(volume, MetaTensor) else edited
