"""The named chains that every bundle uses, as MONAI `Compose`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    Orientationd,
    Spacingd,
)

from ragsam.errors import InputError
from ragsam.transforms.augmentation import slice_augmentation
from ragsam.transforms.filling import FillNonfinited
from ragsam.transforms.intensity import scale_intensity
from ragsam.transforms.label_grid import LabelToGridd
from ragsam.transforms.label_values import MapLabelsd
from ragsam.transforms.reading import LoadVolumed
from ragsam.transforms.slicing import SLICE_AXCODES


def preprocessing(
    *,
    window: Sequence[float] | None = None,
    spacing_mm: Sequence[float] | None = None,
    slice_axis: int = 2,
    keys: Sequence[str] = ("image", "label"),
) -> Compose:
    """Return the chain from files to an oriented, scaled volume.

    Args:
        window: intensity window; None scales by each volume's percentiles.
        spacing_mm: spacing within a slice to resample to, in the order of its axes in RAS (axial: x, y); None keeps
            the image's own. Slices are never resampled across, so that every slice stays one that was scanned.
        slice_axis: what the slices lie across: 0 sagittal, 1 coronal, 2 axial.
        keys: "image", and "label" where there is one.

    Returns:
        A transform of {"image": path, "label": path} (and "label_map", see `MapLabelsd`, and "fill_nonfinite", see
        `FillNonfinited`) to {"image": [1, H, W, D] float 0-1, "label": [1, H, W, D]}, as MetaTensors that know their
        way back. H and W are the slice's axes in the order of RAS, each running to the patient's right, front or head,
        and D runs across the slices.

    Raises:
        InputError: another slice axis.
    """
    if slice_axis not in SLICE_AXCODES:
        raise InputError(f"slice_axis {slice_axis}: no such axis; take 0 (sagittal), 1 (coronal) or 2 (axial)")
    steps = [
        LoadVolumed(keys, image_only=True),
        EnsureChannelFirstd(keys, channel_dim="no_channel"),
        MapLabelsd(),
        FillNonfinited(),
        Orientationd(keys, axcodes=SLICE_AXCODES[slice_axis], labels=None),
    ]
    if spacing_mm is not None:
        steps.append(Spacingd("image", pixdim=(float(spacing_mm[0]), float(spacing_mm[1]), -1.0), mode="bilinear"))
        steps += [LabelToGridd()] if "label" in keys else []
    window = None if window is None else (float(window[0]), float(window[1]))
    steps += [scale_intensity(window), EnsureTyped(keys, dtype=None)]
    return Compose(steps)


def augmentation(**options: Any) -> Compose:
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
