"""The named chains that every bundle uses, as MONAI `Compose`."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    LoadImaged,
    Orientationd,
    Spacingd,
)

from ragsam.transforms.augmentation import slice_augmentation
from ragsam.transforms.intensity import scale_intensity

AXCODES = "RAS"


def preprocessing(
    *,
    window: Sequence[float] | None = None,
    spacing_mm: Sequence[float] | None = None,
    keys: Sequence[str] = ("image", "label"),
) -> Compose:
    """Return the chain from files to an oriented, scaled volume.

    Args:
        window: intensity window; None scales by each volume's percentiles.
        spacing_mm: in-plane spacing (x, y) to resample to; None keeps the image's own. Slices are never resampled
            across, so that every slice stays one that was scanned.
        keys: "image", and "label" where there is one.

    Returns:
        A transform of {"image": path, "label": path} to {"image": [1, H, W, D] float 0-1, "label": [1, H, W, D]},
        oriented to RAS, as MetaTensors that know their way back.
    """
    steps = [
        LoadImaged(keys, image_only=True, reader="NibabelReader"),
        EnsureChannelFirstd(keys, channel_dim="no_channel"),
        Orientationd(keys, axcodes=AXCODES, labels=None),
    ]
    if spacing_mm is not None:
        modes = ["bilinear" if key == "image" else "nearest" for key in keys]
        steps.append(Spacingd(keys, pixdim=(float(spacing_mm[0]), float(spacing_mm[1]), -1.0), mode=modes))
    window = None if window is None else (float(window[0]), float(window[1]))
    steps += [scale_intensity(window), EnsureTyped(keys, dtype=None)]
    return Compose(steps)


def augmentation(**options: float) -> Compose:
    """Return the random chain of a training slice; see `slice_augmentation` for its options."""
    return slice_augmentation(**options)


def postprocessing(preprocessing_chain: Compose, *, restore_grid: bool = True) -> Compose:
    """Return the chain from logits `pred` [K + 1, H, W, D] to a label volume [1, H, W, D].

    Args:
        preprocessing_chain: the chain to undo.
        restore_grid: bring the logits back to the image's own grid before classes are chosen, so that resampled
            borders are decided there; False stays on the working grid.
    """
    steps = []
    if restore_grid:
        # Invertd leaves a plain tensor as it is, with no more than a warning: a volume on the wrong grid.
        steps += [
            EnsureTyped("pred", dtype=None, track_meta=True),
            Invertd("pred", transform=preprocessing_chain, orig_keys="image", nearest_interp=False, to_tensor=True),
        ]
    return Compose([*steps, AsDiscreted("pred", argmax=True)])
