"""What volumes' files are called: the one place that knows their suffixes. Content decides what a file is."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath

from ragsam.errors import InputError

ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
#: What a volume's file may be called, in small or capital letters; a DICOM series is a folder.
SUFFIXES = (".nii.gz", ".nii", *ITK_SUFFIXES)


def volume_name(path: PurePath) -> str | None:
    """Return a volume's name without its suffix, None where the suffix is no volume's.

    Letters with accents come out composed, however the file system stores them, so that an image and its label match.

    Raises:
        InputError: a volume whose name is not UTF-8.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return checked_name(path.name[: -len(suffix)])
    return None


def checked_name(name: str) -> str:
    """Return a file's or folder's name composed; raises InputError where it is not UTF-8, and no output can be."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = name.encode("utf-8", "replace").decode()
        raise InputError(f"{shown}: the file's name is not UTF-8; rename it") from error
    return composed(name)


def composed(name: str) -> str:
    """Return a name with composed letters (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)


def is_itk_format(path: PurePath) -> bool:
    """Return whether a file is a MetaImage or NRRD by its name."""
    return path.suffix.lower() in ITK_SUFFIXES
