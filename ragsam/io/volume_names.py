"""What volumes' files are called: the one place that knows their suffixes. Content decides what a file is."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath

from ragsam.errors import InputError

ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
#: What a volume's file may be called, in small or capital letters; a DICOM series is a folder.
SUFFIXES = (".nii.gz", ".nii", *ITK_SUFFIXES)


def volume_name(path: PurePath, *, readable: bool = False) -> str | None:
    """Return a volume's name without its suffix, None if the suffix is no volume's.

    Letters with accents come out composed, however the file system stores them, so that an image and its label match.

    Args:
        readable: put ? for what is not UTF-8 instead of refusing it; `open_volume` refuses that file alone.

    Raises:
        InputError: a volume whose name is not UTF-8.
    """
    name = without_suffix(path.name)
    if name == path.name:
        return None
    return checked_name(readable_name(name) if readable else name)


def without_suffix(name: str) -> str:
    """Return the name of a volume's file without its suffix, as it is otherwise."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def checked_name(name: str) -> str:
    """Return a file's or folder's name composed; raises InputError where it is not UTF-8, and no output can be."""
    if readable_name(name) != name:
        raise InputError(f"{readable_name(name)}: the file's name is not UTF-8; rename it")
    return composed(name)


def readable_name(name: str) -> str:
    """Return a name with ? for what is not UTF-8."""
    return name.encode("utf-8", "replace").decode()


def composed(name: str) -> str:
    """Return a name with composed letters (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)


def is_itk_format(path: PurePath) -> bool:
    """Return whether a file is a MetaImage or NRRD by its name."""
    return path.suffix.lower() in ITK_SUFFIXES
