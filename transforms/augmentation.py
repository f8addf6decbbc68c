"""Augmentation of slices: shape, intensity, resolution, and mirroring that keeps left and right apart.

What is never drawn is left out of the chain: it costs nothing, and the others draw as if it did not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

from monai.transforms import (
    Compose,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    Transform,
)

from ragsam.errors import InputError
from ragsam.transforms.mirror import RandMirrord

#: A slice's parts that are moved alike; the vote of its neighbours is there in training with retrieval alone.
KEYS = ("image", "label", "vote")
MODES = ("bilinear", "nearest", "bilinear")


def slice_augmentation(
    *,
    affine: float = 0.9,
    contrast: float = 0.3,
    intensity: float = 0.3,
    noise: float = 0.3,
    elastic: float = 0.0,
    low_resolution: float = 0.0,
    mirror: bool = False,
    left_right: Sequence[tuple[int, int]] = (),
    slice_axis: int = 2,
    rotation_degrees: float = 15.0,
    scale: float = 0.15,
    shift_pixels: float = 4.0,
    noise_std: float = 0.03,
) -> Compose:
    """Return the random transform of one slice: a dict of `image` [C, H, W], 0-1, and `label` [1, H, W].

    Where there is a `vote` [K + 1, H, W] it moves along.

    Args:
        affine, contrast, intensity, noise, elastic, low_resolution: the probability of each: an affine
            map, a gamma of 0.7 to 1.4, a shift of all intensities by up to 0.1, noise, an elastic deformation by a
            pixel or two, and a resolution lowered by up to half.
        mirror: whether half of the slices are mirrored, their left and right labels swapped.
        left_right: label values (left, right) that a mirrored slice swaps.
        slice_axis: what the slices lie across (0 sagittal, 1 coronal, 2 axial).
        rotation_degrees: rotations are drawn between plus and minus this angle.
        scale: sizes are drawn between 1 - scale and 1 + scale.
        shift_pixels: shifts are drawn between plus and minus this many pixels.
        noise_std: largest standard deviation of the added noise, image intensities being 0-1.

    Raises:
        InputError: mirroring of sagittal slices, which do not show left and right.
    """
    if mirror and slice_axis == 0:
        raise InputError("mirror: sagittal slices have no left and right; turn it off or choose another slice_axis")
    angle = rotation_degrees * pi / 180
    steps: list[tuple[float, Transform]] = [
        (
            affine,
            RandAffined(
                KEYS,
                prob=affine,
                rotate_range=angle,
                scale_range=(scale, scale),
                shear_range=(0.08, 0.08),
                translate_range=(shift_pixels, shift_pixels),
                mode=MODES,
                padding_mode="zeros",
                allow_missing_keys=True,
            ),
        ),
        (contrast, RandAdjustContrastd("image", prob=contrast, gamma=(0.7, 1.4))),
        (intensity, RandShiftIntensityd("image", prob=intensity, offsets=0.1)),
        (noise, RandGaussianNoised("image", prob=noise, std=noise_std)),
        (
            elastic,
            Rand2DElasticd(
                KEYS,
                (16, 16),
                (0.5, 2.0),
                prob=elastic,
                mode=MODES,
                padding_mode="zeros",
                allow_missing_keys=True,
            ),
        ),
        (
            low_resolution,
            RandSimulateLowResolutiond("image", prob=low_resolution, upsample_mode="bilinear", zoom_range=(0.5, 1.0)),
        ),
        (0.5 * mirror, RandMirrord(left_right)),
    ]
    return Compose([step for probability, step in steps if probability > 0])
