"""Volumes for the page: cropped to what is labelled, no finer than fits, in NIfTI files with fresh headers."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from ragsam.report.figures import Colour, picture_png
from ragsam.report.views import as_picture
from ragsam.transforms.label_grid import coverage, resample_labels

SIDE, VOXELS, GREYS = 160, 2_000_000, 64
MARGIN_MM = 20.0
STILL_PIXELS = 360
_AMBIENT = 0.35

Box = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]


def labelled_box(labels: Sequence[NDArray[np.integer]], spacing_mm: Spacing, margin_mm: float = MARGIN_MM) -> Box:
    """Return the box around everything labelled in volumes of one shape, with a margin; all of it if nothing is."""
    shape, labelled = labels[0].shape, np.any([volume != 0 for volume in labels], axis=0)
    box = []
    for axis, length in enumerate(shape):
        hit = np.flatnonzero(labelled.any(axis=tuple(other for other in range(3) if other != axis)))
        edge = round(margin_mm / spacing_mm[axis])
        low, high = (int(hit[0]) - edge, int(hit[-1]) + 1 + edge) if hit.size else (0, length)
        box.append(slice(max(0, low), min(length, high)))
    return box[0], box[1], box[2]


def fitting_shape(shape: Sequence[int], spacing_mm: Spacing) -> tuple[int, int, int]:
    """Return the finest shape with at most `SIDE` voxels along an axis and `VOXELS` in all; long edges shrink first."""
    edge_mm = min(spacing_mm)
    while True:
        sides = zip(shape, spacing_mm, strict=True)
        x, y, z = (max(1, min(side, SIDE, round(side * mm / edge_mm))) for side, mm in sides)
        if x * y * z <= VOXELS:
            return x, y, z
        edge_mm *= 1.02


def reduced_labels(labels: NDArray[np.integer], shape: tuple[int, int, int]) -> NDArray[np.integer]:
    """Resample a label map by `resample_labels`: an organ thinner than a voxel keeps its place in every slice.

    Args:
        labels: [X, Y, Z], whole numbers from 0 to 32767.
        shape: no axis longer than before.
    """
    if shape == labels.shape:
        return labels
    x, y, z = (weights.to(torch.float32) for weights in _weights(labels.shape, shape))
    moved = resample_labels(torch.from_numpy(labels.astype(np.int16)), x, y)
    if shape[2] != labels.shape[2]:
        moved = resample_labels(moved.permute(2, 1, 0), z, torch.eye(shape[1])).permute(2, 1, 0)
    return np.ascontiguousarray(moved.numpy())


def reduced_image(image: NDArray, window: tuple[float, float], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a windowed image [X, Y, Z] in `GREYS` grey levels, averaged over what each new voxel covers."""
    low, high = window
    grey = (image.astype(np.float32) - low) / max(high - low, np.finfo(np.float32).tiny)
    grey = (GREYS - 1) * np.clip(np.nan_to_num(grey), 0, 1)
    for axis, weights in enumerate(_weights(image.shape, shape)):
        if len(weights) != grey.shape[axis]:
            grey = np.moveaxis(np.tensordot(weights.numpy().astype(np.float32), grey, (1, axis)), 0, axis)
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
    x, y = places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()].tolist()
    shares = [(at + 0.5) / side for at, side in zip((x, y, z), telling.shape, strict=True)]
    return shares[0], shares[1], shares[2]


def still_png(
    labels: NDArray[np.integer], spacing_mm: Spacing, colours: Mapping[int, Colour], *, pixels: int = STILL_PIXELS
) -> bytes:
    """Draw the organs as they are seen from the front, nearer surfaces over farther ones, lit from the front.

    Args:
        labels: [X, Y, Z], RAS.
        colours: {label value: RGB, 0-255}.
        pixels: the longer side.

    Returns:
        a PNG, head up, the patient's left on the right.
    """
    from_front = labels[:, ::-1]
    depth = (from_front != 0).argmax(axis=1)
    seen = np.take_along_axis(from_front, depth[:, None], axis=1)[:, 0]
    depth_mm = np.where(seen != 0, depth, labels.shape[1]) * spacing_mm[1]
    slopes = [_slope(depth_mm, axis) / spacing_mm[step] for axis, step in ((0, 0), (1, 2))]
    light = _AMBIENT + (1 - _AMBIENT) / np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    table = np.zeros((int(labels.max(initial=0)) + 1, 3))
    for value, colour in colours.items():
        if value < len(table):
            table[value] = colour
    picture = np.round(table[seen] * light[..., None]).astype(np.uint8)
    rows = np.stack([as_picture(picture[..., channel]) for channel in range(3)], axis=-1)
    return picture_png(rows, extent=(labels.shape[0] * spacing_mm[0], labels.shape[2] * spacing_mm[2]), pixels=pixels)


def _weights(old: Sequence[int], new: Sequence[int]) -> list[torch.Tensor]:
    """Return `coverage` of every axis, both grids over the same extent."""
    return [coverage(n, o, o / n, (o / n - 1) / 2) for o, n in zip(old, new, strict=True)]


def _slope(depth: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.gradient(depth, axis=axis) if depth.shape[axis] > 1 else np.zeros_like(depth)
