"""Intensities to 0-1."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import MapTransform, ScaleIntensityRanged, ScaleIntensityRangePercentilesd

PERCENTILES = (0.5, 99.5)


def scale_intensity(window: Sequence[float] | None, key: str = "image") -> MapTransform:
    """Return the transform that maps intensities to 0-1, clipped.

    Args:
        window: lowest and highest intensity, Hounsfield units for CT; None takes percentiles 0.5 and 99.5 of each
            volume, since MR intensities have no common scale.
    """
    if window is None:
        low, high = PERCENTILES
        return ScaleIntensityRangePercentilesd(key, lower=low, upper=high, b_min=0.0, b_max=1.0, clip=True)
    low, high = map(float, window)
    return ScaleIntensityRanged(key, a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
