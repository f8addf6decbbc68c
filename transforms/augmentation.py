"""Augmentation of slices: small rotations, scales, shears and shifts, and intensities.

There is no flip: a mirrored liver would lie on the patient's left, and left and right kidney would swap their names.
"""

from __future__ import annotations

from math import pi

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandShiftIntensityd,
)


def slice_augmentation(
    *,
    rotation_degrees: float = 15.0,
    scale: float = 0.15,
    shift_pixels: float = 4.0,
    noise: float = 0.03,
) -> Compose:
    """Return the random transform of one slice: a dict of `image` [3, H, W] and `label` [1, H, W].

    Args:
        rotation_degrees: rotations are drawn between plus and minus this angle.
        scale: sizes are drawn between 1 - scale and 1 + scale.
        shift_pixels: shifts are drawn between plus and minus this many pixels.
        noise: largest standard deviation of the added noise, image intensities being 0-1.
    """
    angle = rotation_degrees * pi / 180
    return Compose(
        [
            RandAffined(
                ("image", "label"),
                prob=0.9,
                rotate_range=angle,
                scale_range=(scale, scale),
                shear_range=(0.08, 0.08),
                translate_range=(shift_pixels, shift_pixels),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.4)),
            RandShiftIntensityd("image", prob=0.3, offsets=0.1),
            RandGaussianNoised("image", prob=0.3, std=noise),
        ]
    )
