"""Volumes for the page: cropped to what is labelled, no finer than fits, in NIfTI files with fresh headers."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from ragsam.report.figures import Colour, picture_png
from ragsam.report.views import as_picture, box_around
from ragsam.transforms.label_grid import coverage, resample_labels

SIDE, VOXELS, GREYS = 160, 2_000_000, 64
MARGIN_MM = 20.0
STILL_PIXELS = 360
_AMBIENT = 0.35

Spacing = tuple[float, float, float]


def labelled_box(
    labels: Sequence[NDArray[np.integer]], spacing_mm: Spacing, margin_mm: float = MARGIN_MM
) -> tuple[slice, ...]:
    """Return the box around everything labelled in volumes of one shape, with a margin; all of it if nothing is."""
    return box_around(labels, [round(margin_mm / edge_mm) for edge_mm in spacing_mm])


def fitting_shape(shape: Sequence[int], spacing_mm: Spacing) -> tuple[int, int, int]:
    """Return the finest shape with at most `SIDE` voxels along an axis and `VOXELS` in all; long edges shrink first."""
    extent_mm = np.multiply(shape, spacing_mm)
    most = np.minimum(shape, SIDE)
    edge_mm = min(spacing_mm)
    fitting = np.clip(np.rint(extent_mm / edge_mm), 1, most)
    while fitting.prod() > VOXELS:
        edge_mm *= 1.02
        fitting = np.clip(np.rint(extent_mm / edge_mm), 1, most)
    x, y, z = fitting.astype(int).tolist()
    return x, y, z


def reduced_labels(labels: NDArray[np.integer], shape: tuple[int, int, int]) -> NDArray[np.integer]:
    """Resample a label map by `resample_labels`: an organ thinner than a voxel keeps its place in every slice.

    Values are at most 32767, and no axis gets longer.
    """
    if shape == labels.shape:
        return labels
    x, y, z = [_weights(old, new).to(torch.float32) for old, new in zip(labels.shape, shape, strict=True)]
    moved = resample_labels(torch.from_numpy(labels.astype(np.int16)), x, y)
    if shape[2] != labels.shape[2]:
        moved = resample_labels(moved.permute(2, 1, 0), z, torch.eye(shape[1])).permute(2, 1, 0)
    return np.ascontiguousarray(moved.numpy())


def reduced_image(image: NDArray, window: tuple[float, float], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a windowed image [X, Y, Z] in `GREYS` grey levels, averaged over what each new voxel covers."""
    low, high = window
    grey = (image.astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    grey = (GREYS - 1) * np.clip(np.nan_to_num(grey), 0, 1)
    for axis, (old, new) in enumerate(zip(image.shape, shape, strict=True)):
        if new != old:
            weights = _weights(old, new).numpy().astype(np.float32)
            averaged = np.tensordot(weights, grey, (1, axis))
            grey = np.moveaxis(averaged, 0, axis)
    return np.round(grey).astype(np.uint8)


def nifti_gz(volume: NDArray, spacing_mm: Spacing) -> bytes:
    """Return a volume as gzipped NIfTI about the origin: nothing of the file it came from but voxels and spacing."""
    content = nib.Nifti1Image(volume, np.diag([*spacing_mm, 1.0])).to_bytes()
    return gzip.compress(content, 9, mtime=0)


def start_place(reference: NDArray[np.integer], prediction: NDArray[np.integer]) -> tuple[float, float, float]:
    """Return a voxel amid what differs in the slice that differs most, else amid the labels, as shares of the axes."""
    telling = reference != prediction
    if not telling.any():
        telling = reference != 0
    if not telling.any():
        return 0.5, 0.5, 0.5
    z = int(np.count_nonzero(telling, axis=(0, 1)).argmax())
    places = np.argwhere(telling[:, :, z])
    squares = (places - places.mean(axis=0)) ** 2
    x, y = places[squares.sum(axis=1).argmin()].tolist()
    width, depth, height = telling.shape
    return (x + 0.5) / width, (y + 0.5) / depth, (z + 0.5) / height


def still_png(
    labels: NDArray[np.integer], spacing_mm: Spacing, colours: Mapping[int, Colour], *, pixels: int = STILL_PIXELS
) -> bytes:
    """Draw the organs [X, Y, Z], RAS, as they are seen from the front, nearer surfaces over farther ones.

    They are lit from the front; head up, the patient's left on the right. The longer side has so many pixels.
    """
    from_front = labels[:, ::-1]
    depth = (from_front != 0).argmax(axis=1)
    seen = np.take_along_axis(from_front, depth[:, None], axis=1)[:, 0]
    depth_mm = np.where(seen != 0, depth, labels.shape[1]) * spacing_mm[1]
    across = _slope(depth_mm, 0) / spacing_mm[0]
    upward = _slope(depth_mm, 1) / spacing_mm[2]
    light = _AMBIENT + (1 - _AMBIENT) / np.sqrt(1 + across**2 + upward**2)
    table = np.zeros((1 + max(*colours, int(labels.max(initial=0))), 3))
    table[list(colours)] = list(colours.values())
    picture = np.round(table[seen] * light[..., None]).astype(np.uint8)
    rows = as_picture(picture).transpose(1, 2, 0)
    extent = (labels.shape[0] * spacing_mm[0], labels.shape[2] * spacing_mm[2])
    return picture_png(rows, extent=extent, pixels=pixels)


def _weights(old: int, new: int) -> torch.Tensor:
    """Return `coverage` of an axis, both grids over the same extent."""
    step = old / new
    return coverage(new, old, step, (step - 1) / 2)


def _slope(depth: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    if depth.shape[axis] == 1:
        return np.zeros_like(depth)
    return np.gradient(depth, axis=axis)
