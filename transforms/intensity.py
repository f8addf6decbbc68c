"""Intensities to 0-1."""

from __future__ import annotations

from monai.transforms import MapTransform, ScaleIntensityRanged, ScaleIntensityRangePercentilesd

PERCENTILES = (0.5, 99.5)


def scale_intensity(window: tuple[float, float] | None, key: str = "image") -> MapTransform:
    """Return the transform that maps intensities to 0-1, clipped.

    Args:
        window: lowest and highest intensity, Hounsfield units for CT; None takes percentiles 0.5 and 99.5 of each
            volume, since MR intensities have no common scale.
    """
    if window is None:
        low, high = PERCENTILES
        return ScaleIntensityRangePercentilesd(key, lower=low, upper=high, b_min=0.0, b_max=1.0, clip=True)
    return ScaleIntensityRanged(key, a_min=window[0], a_max=window[1], b_min=0.0, b_max=1.0, clip=True)
