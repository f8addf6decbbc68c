"""Axial views of a volume: closest-canonical orientation, the slices worth seeing, the radiologist's way up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ragsam.data.checks.check_case import scan_volume
from ragsam.evaluation.read_labels import labels_of
from ragsam.io.grids import Grid, OtherGridError, turn_onto
from ragsam.transforms.nonfinite import fill_nonfinite as filled

ORIENTATION_NOTE = "Axial slices, anterior up, the patient's left on the right of the picture."


@dataclass(frozen=True)
class View:
    """A volume in closest-canonical (RAS) orientation.

    Attributes:
        array: [X, Y, Z]; X grows to the patient's right, Y to the front, Z to the head.
        affine: (4, 4), voxel to mm.
    """

    array: NDArray
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing in array order."""
        x, y, z = nib.affines.voxel_sizes(self.affine).tolist()
        return x, y, z

    def placed_on(self, other: View) -> View | None:
        """Return the volume with its axes in the order of another's, None if it is on another grid."""
        try:
            turn = turn_onto(Grid(self.array.shape, self.affine), Grid(other.array.shape, other.affine))
        except OtherGridError:
            return None
        return View(turn(self.array), other.affine)


def canonical(array: NDArray, affine: NDArray[np.float64]) -> View:
    """Turn an array to its closest-canonical orientation by flips and swaps of axes; nothing is resampled."""
    orientation = nib.io_orientation(affine)
    turned = affine @ nib.orientations.inv_ornt_aff(orientation, array.shape)
    return View(nib.apply_orientation(array, orientation), turned)


def view_labels(path: Path, case: str, *, label_map: Mapping[int, int] | None = None) -> View:
    """Read a label volume in canonical orientation, in the card's values; arguments and errors as of `read_labels`."""
    image, _ = scan_volume(path, case)  # its warnings were reported when it was read first
    volume = labels_of(image, case, label_map=label_map)
    return canonical(volume.labels, volume.affine)


def view_image(path: Path, case: str, *, fill_nonfinite: float | None = None) -> View:
    """Read an image in canonical orientation; arguments and errors as of `scan_volume`."""
    image, _ = scan_volume(path, case, fill_nonfinite=fill_nonfinite)
    voxels = filled(np.asanyarray(image.dataobj), fill_nonfinite or 0.0)
    return canonical(voxels, np.asarray(image.affine, dtype=np.float64))


def keep_values(labels: NDArray[np.integer], values: Collection[int]) -> NDArray[np.integer]:
    """Return the labels with every value that is not among `values` set to background."""
    return np.where(np.isin(labels, list(values)), labels, 0)


def telling_slices(reference: NDArray[np.integer], prediction: NDArray[np.integer]) -> list[tuple[int, str]]:
    """Return up to three axial slices with the reason each is shown.

    They are the slice with most voxels in error, the slice with most reference, and the worst slice that is at least a
    tenth of the volume's height from both.
    """
    errors = np.count_nonzero(reference != prediction, axis=(0, 1))
    sizes = np.count_nonzero(reference, axis=(0, 1))
    chosen: dict[int, str] = {}
    if errors.any():
        chosen[int(errors.argmax())] = "largest error"
    if sizes.any():
        largest = int(sizes.argmax())
        if largest in chosen:
            chosen[largest] = "largest error and largest reference"
        chosen.setdefault(largest, "largest reference")
    if not chosen:
        return [(len(errors) // 2, "middle slice, nothing is labelled")]
    near = max(1, round(0.1 * len(errors)))
    for z in chosen:
        errors[max(0, z - near + 1) : z + near] = 0
    if errors.any():
        chosen[int(errors.argmax())] = "next largest error"
    return sorted(chosen.items())


def window_of(image: NDArray, window: tuple[float, float] | None) -> tuple[float, float]:
    """Return the grey window: the card's, or the volume's 0.5 and 99.5 percentiles where it has none."""
    if window is not None:
        return window
    # Every n-th voxel is enough for a percentile, and keeps a large volume quick.
    sample = np.asarray(image).ravel()[:: max(1, image.size // 1_000_000)]
    low, high = np.percentile(sample, (0.5, 99.5)).tolist()
    return low, high


def crop_box(labels: list[NDArray[np.integer]], margin: float = 0.2) -> tuple[slice, ...]:
    """Return the box around everything labelled in these slices, [X, Y], with a margin in parts of the slice's size."""
    return box_around(labels, [round(margin * length) for length in labels[0].shape])


def box_around(labels: Sequence[NDArray[np.integer]], margins: Sequence[int]) -> tuple[slice, ...]:
    """Return the box around everything labelled in arrays of one shape, with a margin in voxels along each axis.

    It is cut to the array, and is all of it where nothing is labelled.
    """
    labelled = np.any(labels, axis=0).view(np.uint8)
    (tight,) = find_objects(labelled, 1)
    if tight is None:
        tight = tuple(map(slice, [0] * labelled.ndim, labelled.shape))
    box = []
    for side, margin, length in zip(tight, margins, labelled.shape, strict=True):
        box.append(slice(max(0, side.start - margin), min(length, side.stop + margin)))
    return tuple(box)


def as_picture(plane: NDArray) -> NDArray:
    """Turn a canonical axial slice [X, Y] to a picture [rows, columns]: anterior up, patient left on the right."""
    return plane[::-1, ::-1].T
