"""What is given to segment in Python: a path, or an image in memory of nibabel, SimpleITK or numpy."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from ragsam.data.cards.model import Card
from ragsam.data.checks.load_volume import check_loaded
from ragsam.data.datalist import Case
from ragsam.data.served import case_name
from ragsam.errors import InputError
from ragsam.inference.inputs import cases_of_inputs
from ragsam.io.itk_formats import volume_of_itk
from ragsam.io.nifti import volume_of_nibabel

_UNNAMED = "volume"


def read_image(image: Any, patient: str | None = None, card: Card | None = None) -> tuple[Case, SpatialImage | None]:
    """Return an image as a case, and the image itself where it is in memory.

    Args:
        image: path of a volume or a DICOM folder, a nibabel image, a SimpleITK image, or (array [X, Y, Z], affine in
            RAS mm).
        patient: key of the patient; None: the name of the image's file, as `ragsam segment` has it.
        card: whose labels a datalist's card must have.

    Raises:
        InputError: something else, or an image in memory that no run can segment.
    """
    if isinstance(image, str | os.PathLike):
        volume = None
        cases = cases_of_inputs([image], card=card)
        if len(cases) != 1:
            raise InputError(f"{Path(image).name}: {len(cases)} cases; segment one volume at a time")
        case = cases[0]
    else:
        volume = _in_memory(image)
        name = case_name(volume.get_filename()) or _UNNAMED
        check_loaded(volume, name)
        case = Case(name, name, Path(name))
    if patient is not None:
        case = replace(case, patient=patient)
    return case, volume


def _in_memory(image: Any) -> SpatialImage:
    """Return an image of nibabel with voxels of its own."""
    if isinstance(image, SpatialImage):
        voxels = np.asanyarray(image.dataobj).copy()
        copy = type(image)(voxels, image.affine, image.header, file_map=image.file_map)
        return volume_of_nibabel(copy, _UNNAMED)
    if type(image).__module__.startswith("SimpleITK"):
        return volume_of_itk(image, _UNNAMED)
    if not isinstance(image, tuple):
        raise InputError(f"{type(image).__name__}: give a path, an image of nibabel or SimpleITK, or (array, affine)")
    voxels = np.array(image[0])
    affine = np.asarray(image[1], dtype=np.float64)
    sound = affine.shape == (4, 4) and np.isfinite(affine).all() and np.linalg.det(affine) != 0
    if not sound:
        raise InputError(f"{_UNNAMED}: the affine is no (4, 4) matrix from voxels to mm, or singular; give the image's")
    return nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
