"""The named chains that every bundle uses, as MONAI `Compose`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, Transform

from ragsam.errors import InputError
from ragsam.io.read_volume import LoadVolumed
from ragsam.transforms.augmentation import slice_augmentation
from ragsam.transforms.in_plane import InPlaneSpacingd
from ragsam.transforms.intensity import scale_intensity
from ragsam.transforms.label_grid import LabelToGridd
from ragsam.transforms.label_values import MapLabelsd
from ragsam.transforms.layout import DEFAULT_LAYOUT, orientation_step
from ragsam.transforms.nonfinite import FillNonfinited
from ragsam.transforms.restoring import SplitMapsd, ToImageGridd


def preprocessing(
    *,
    window: Sequence[float] | None = None,
    spacing_mm: Sequence[float] | None = None,
    slice_axis: int = 2,
    slice_layout: str = DEFAULT_LAYOUT,
    keys: Sequence[str] = ("image", "label"),
    device: torch.device | str | None = None,
) -> Compose:
    """Return the chain from files to an oriented, scaled volume.

    Args:
        window: intensity window; None scales by each volume's percentiles.
        spacing_mm: spacing within a slice to resample to, in the order of its axes in RAS (axial: x, y), or of the
            file's own; None keeps the image's. Slices are never resampled across, so that every slice stays one that
            was scanned.
        slice_axis: what the slices lie across: 0 sagittal, 1 coronal, 2 axial.
        slice_layout: see `ragsam.transforms.layout`.
        keys: "image", and "label" if there is one.
        device: where the image is resampled, a few slices at a time; what comes out is on the CPU either way.

    Returns:
        A transform of {"image": path, "label": path} (and "label_map", see `MapLabelsd`, and "fill_nonfinite", see
        `FillNonfinited`) to {"image": [1, H, W, D] float 0-1, "label": [1, H, W, D]}, as MetaTensors that know their
        way back. H and W are the slice's axes in the order of RAS, each running to the patient's right, front or head,
        and D runs across the slices; with `slice_layout` file they are the file's second, first and third axis.

    Raises:
        InputError: another slice axis or layout.
    """
    turn = orientation_step(keys, slice_axis, slice_layout)
    steps = [
        LoadVolumed(keys, image_only=True),
        EnsureChannelFirstd(keys, channel_dim="no_channel"),
        MapLabelsd(),
        FillNonfinited(),
        turn,
    ]
    if spacing_mm is not None:
        along = spacing_mm if slice_layout == "ras" else spacing_mm[::-1]  # the file's second axis runs along H
        steps.append(InPlaneSpacingd("image", along, device=device))
    if spacing_mm is not None and "label" in keys:
        steps.append(LabelToGridd())
    return Compose([*steps, scale_intensity(window), EnsureTyped(keys, dtype=None)])


def augmentation(**options: Any) -> Compose:
    """Return the random chain of a training slice; see `slice_augmentation` for its options."""
    return slice_augmentation(**options)


def postprocessing(
    *,
    restore_grid: bool = True,
    uncertainty: bool = False,
    pieces: object = None,
    fill_holes: bool = False,
) -> Compose:
    """Return the chain from what an inferer gives, `pred` [C, H, W, D], to a label volume `pred` [1, X, Y, Z], uint8.

    Further channels come out as `uncertainty` [1, X, Y, Z] and `probabilities` [K, X, Y, Z], uint8, 255 for 1.

    Args:
        restore_grid: turn the volume to the axes of the image's file, which `image` remembers; False stays on the
            working grid.
        uncertainty: whether the second channel is that.
        pieces, fill_holes: in configs of earlier runs alone, where they are off.

    Raises:
        InputError: one of them is on.
    """
    if pieces or fill_holes:
        raise InputError("keep_pieces and fill_holes are gone, since they gained nothing; set them to false")
    steps: list[Transform] = [SplitMapsd(uncertainty=uncertainty)]
    if restore_grid:
        steps.insert(0, ToImageGridd())
    return Compose(steps)
