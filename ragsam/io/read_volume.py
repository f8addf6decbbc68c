"""Volumes read from files: what opens them, and the MONAI reader that goes through it."""

from __future__ import annotations

import gzip
import logging
import os
import warnings
import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
from monai.config import KeysCollection
from monai.data import ImageReader, NibabelReader
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple
from nibabel.spatialimages import SpatialImage

from ragsam.errors import InputError
from ragsam.io.dicom_series import read_series, split_series
from ragsam.io.itk_formats import ITK_SUFFIXES, open_itk

#: What a volume's file may be called; a DICOM series is a folder.
SUFFIXES = (".nii.gz", ".nii", *ITK_SUFFIXES)
_CHUNK_BYTES = 1 << 20
_UNKNOWN_LIMIT_BYTES = 1 << 30  # read of a packed file whose header says nothing


def open_volume(path: Path, case: str) -> SpatialImage:
    """Open a volume by its header; its voxels are not loaded.

    Args:
        path: NIfTI file, `.nii` or `.nii.gz` (or what else nibabel reads), MetaImage (`.mha`, `.mhd`), NRRD (`.nrrd`),
            or DICOM: a folder of one series, or FOLDER/UID where it holds several.
        case: how errors name it.

    Returns:
        The volume in RAS millimetres. A NIfTI's sform goes before its qform, whatever its voxel sizes say.

    Raises:
        InputError: missing, empty, unreadable or foreign file; as `open_itk` and `read_series`.
    """
    folder, series = split_series(path)
    if folder.is_dir():
        return read_series(folder, series, case)
    if not path.is_file():
        raise InputError(f"{case}: no such file; check its path in the datalist")
    if path.stat().st_size == 0:
        raise InputError(f"{case}: the file is empty; export or copy it again")
    if path.suffix.lower() in ITK_SUFFIXES:
        return open_itk(path, case)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = nibabel.load(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, PermissionError) else "damaged or cut short"
        raise InputError(f"{case}: the file cannot be read ({reason}); copy it again") from error
    except Exception as error:  # nibabel has many exceptions for headers it cannot make sense of
        if path.suffix == ".gz":
            unpacked_bytes(path, case, limit=_UNKNOWN_LIMIT_BYTES)  # tells damage apart from a foreign file
        kind = type(error).__name__
        raise InputError(f"{case}: the file is no volume that can be read ({kind}); convert it to NIfTI") from error
    if not isinstance(image, SpatialImage):
        raise InputError(f"{case}: the file is not a volume; convert it to NIfTI")
    return image


def unpacked_bytes(path: Path, case: str, *, limit: int) -> int:
    """Read a gzip file to its end in pieces and return its unpacked size; gzip checks length and checksum there.

    Raises:
        InputError: a damaged or cut file, or one that unpacks to more than `limit`.
    """
    size = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > limit:
                    raise InputError(f"{case}: the file unpacks to more than its header says; copy it again")
    except EOFError as error:
        raise InputError(f"{case}: the file is cut short (gzip ends early); copy it again") from error
    except (OSError, zlib.error) as error:
        raise InputError(f"{case}: the file is damaged or not packed by gzip; copy it again") from error
    return size


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
        # LoadImaged makes all of MONAI's readers, and one of them tells that NVIDIA's decoder is missing.
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
