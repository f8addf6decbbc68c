"""What an inferer made of a volume's slices, back on the image's own grid and told apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation

from ragsam.transforms.in_plane import own_grid


class ToImageGridd(MapTransform):
    """Turns [C, H, W, D], made of a preprocessed volume, to the axes of the image's file: [C, X, Y, Z].

    Axes are flipped and exchanged, nothing is interpolated: resampling within slices was undone by the inferer.
    """

    def __init__(self, key: str = "pred", image: str = "image") -> None:
        super().__init__(key)
        self.image = image

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the volume on the image's grid, a MetaTensor that knows its affine.

        Raises:
            ValueError: an image that does not know its way back, or a volume that is not on the image's slices.
        """
        items, image = dict(data), data[self.image]
        if not isinstance(image, MetaTensor):
            raise ValueError("the image carries no affine, so nothing can be brought back to its grid")
        own = own_grid(image)
        shape, affine = (image.shape[1:], image.affine) if own is None else ((*own.shape, image.shape[-1]), own.affine)
        for key in self.key_iterator(items):
            if tuple(items[key].shape[1:]) != tuple(shape):
                raise ValueError(f"{key} is {tuple(items[key].shape[1:])}, the image's slices are {tuple(shape)}")
            volume = MetaTensor(items[key], affine=affine)
            axcodes = nib.aff2axcodes(image.meta["original_affine"])
            items[key] = Orientation(axcodes=axcodes, labels=None)(volume)
        return items


class SplitMapsd(MapTransform):
    """Takes the channels of an inferer's volume apart: `pred`, and where they are there `uncertainty`, `probabilities`.

    Args:
        uncertainty: whether the second channel is that.
    """

    def __init__(self, key: str = "pred", *, uncertainty: bool = False) -> None:
        super().__init__(key)
        self.uncertainty = uncertainty

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with `pred` [1, X, Y, Z] and every map [channels, X, Y, Z]; all share memory."""
        items, first = dict(data), 2 if self.uncertainty else 1
        for key in self.key_iterator(items):
            volume = items[key]
            items[key] = volume[:1]
            if self.uncertainty:
                items["uncertainty"] = volume[1:2]
            if len(volume) > first:
                items["probabilities"] = volume[first:]
        return items
