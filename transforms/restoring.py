"""What an inferer made of a volume's slices, back on the image's own grid and distinguished."""

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
        items = dict(data)
        image = items[self.image]
        if not isinstance(image, MetaTensor):
            raise ValueError("the image carries no affine, so nothing can be brought back to its grid")
        shape = tuple(image.shape[1:])
        affine = image.affine
        own = own_grid(image)
        if own is not None:
            shape = (*own.shape, image.shape[-1])
            affine = own.affine
        turn = Orientation(axcodes=nib.aff2axcodes(image.meta["original_affine"]), labels=None)
        for key in self.key_iterator(items):
            found = tuple(items[key].shape[1:])
            if found != shape:
                raise ValueError(f"{key} is {found}, the image's slices are {shape}")
            items[key] = turn(MetaTensor(items[key], affine=affine))
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
        items = dict(data)
        for key in self.key_iterator(items):
            volume = items[key]
            rest = volume[1:]
            items[key] = volume[:1]
            if self.uncertainty:
                items["uncertainty"] = rest[:1]
                rest = rest[1:]
            if len(rest):
                items["probabilities"] = rest
        return items
