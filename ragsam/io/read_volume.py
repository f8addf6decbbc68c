"""Volumes read from files: what opens them, and the MONAI reader that goes through it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import ImageReader, NibabelReader
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple
from nibabel.spatialimages import SpatialImage

from ragsam.errors import InputError
from ragsam.io.dicom_series import read_series, split_series
from ragsam.io.itk_formats import open_itk
from ragsam.io.nifti import open_nifti
from ragsam.io.volume_names import is_itk_format, readable_name


def open_volume(path: Path, case: str) -> SpatialImage:
    """Open a volume by its header; its voxels are not loaded.

    Args:
        path: NIfTI file (see `open_nifti`), MetaImage (`.mha`, `.mhd`), NRRD (`.nrrd`), or DICOM: a folder of one
            series, or FOLDER/UID where it holds several.
        case: how errors name it.

    Returns:
        The volume in RAS millimetres. A NIfTI's sform goes before its qform, whatever its voxel sizes say.

    Raises:
        InputError: missing, empty, unreadable or foreign file, or a path that is not UTF-8; as `open_nifti`, `open_itk`
            and `read_series`.
    """
    if readable_name(str(path)) != str(path):
        raise InputError(f"{case}: the file's name, or its folder's, is not UTF-8; rename it")
    folder, series = split_series(path)
    if folder.is_dir():
        return read_series(folder, series, case)
    if not path.is_file():
        raise InputError(f"{case}: no such file; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{case}: the file is empty; export or copy it again")
    return open_itk(path, case) if is_itk_format(path) else open_nifti(path, case)


class VolumeReader(NibabelReader):
    """MONAI's reader of whatever `open_volume` opens.

    Unlike MONAI's own it never changes a header: the sform goes before the qform, whatever the voxel sizes say.

    Args:
        loaded: volumes by path that are in memory already; each is let go once it is taken.
    """

    def __init__(self, loaded: dict[str, SpatialImage] | None = None) -> None:
        super().__init__()
        self.loaded = {} if loaded is None else loaded

    def verify_suffix(self, filename: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str) -> bool:
        """Return True: `open_volume` says itself what it cannot read."""
        return True

    def read(self, data: Sequence[os.PathLike[str] | str] | os.PathLike[str] | str, **kwargs: Any) -> Any:
        """Return the opened volume, or a list of them; raises InputError as `open_volume`."""
        self.filenames = ensure_tuple(data)
        # A file's name may be a patient's, so errors do not say it; files are checked by case before they come here.
        images = []
        for path in self.filenames:
            image = self.loaded.pop(str(path), None)
            images.append(open_volume(Path(path), "volume") if image is None else image)
        return images if len(images) > 1 else images[0]


class LoadVolumed(LoadImaged):
    """MONAI's LoadImaged with `VolumeReader` alone: no other reader is tried where it refuses a file."""

    def __init__(self, keys: KeysCollection, **options: Any) -> None:
        # LoadImaged makes all of MONAI's readers, and one of them reports that NVIDIA's decoder is missing.
        logger = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
        level = logger.level
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().__init__(keys, **options)
        logger.setLevel(level)

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Load `data[key]` for every key; see `monai.transforms.LoadImaged`.

        Volumes in memory are taken from `data["loaded"]`, by their paths; it is left out of what is returned.
        """
        files = dict(data)
        loaded = files.pop("loaded", None)
        return super().__call__(files, reader=reader or VolumeReader(loaded))
