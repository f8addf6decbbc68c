"""Volumes in folders: which files are volumes, what cases they are, and which image has which label."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ragsam.errors import InputError

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
_DEPTH = 4  # folders below the source that are looked into

Volumes = dict[str, Path]  # by case
CaseOf = Callable[[str], str | None]  # from a file's name without suffix; None where the file is something else


@dataclass(frozen=True)
class Pair:
    """A case's image and label."""

    case: str
    image: Path
    label: Path


def volumes_in(folder: Path, case_of: CaseOf | None = None, *, dicom: bool = False) -> Volumes:
    """Return the volumes of a folder by case; other files, and hidden ones, are passed over.

    Args:
        folder: not searched below.
        case_of: how a file's name without suffix tells the case; None: it is the case.
        dicom: whether a folder that holds DICOM files counts as a volume of its name.

    Raises:
        InputError: no such folder, or two files of one case.
    """
    if not folder.is_dir():
        raise InputError(f"{folder.parent.name}: no folder {folder.name}; give the folder that holds it")
    found: Volumes = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # macOS leaves files named ._something
            continue
        case = (path.name if dicom and _is_dicom(path) else None) if path.is_dir() else name_of(path)
        if case is not None and case_of is not None:
            case = case_of(case)
        if case is None:
            continue
        if case in found:
            raise InputError(f"{case}: two volumes of that name in {folder.name}; remove one")
        found[case] = path
    return found


def name_of(path: Path) -> str | None:
    """Return a volume's name without its suffix, None where the suffix is no volume's."""
    suffix = next((end for end in SUFFIXES if path.name.endswith(end)), None)
    return None if suffix is None else path.name.removesuffix(suffix)


def folders_below(source: Path) -> Iterator[Path]:
    """Yield a folder and those up to four levels below it, hidden ones left out, in the order of their names."""
    for place, below, _ in os.walk(source, followlinks=True):
        folder = Path(place)
        deep = len(folder.relative_to(source).parts) >= _DEPTH
        below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
        yield folder


def pair_up(images: Mapping[str, Path], labels: Mapping[str, Path], where: str) -> list[Pair]:
    """Return the cases in the order of their names.

    Raises:
        InputError: an image without label, a label without image, or neither.
    """
    faults = [f"{case}: image without label" for case in sorted(images.keys() - labels.keys())]
    faults += [f"{case}: label without image" for case in sorted(labels.keys() - images.keys())]
    if faults:
        shown = ", ".join(faults[:5]) + (f" and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise InputError(f"{shown}; add the missing file or move its partner out of {where}")
    if not images:
        raise InputError(f"{where}: no volumes ({', '.join(SUFFIXES)}); check the folder")
    return [Pair(case, images[case], labels[case]) for case in sorted(images)]


def pair_scattered(
    images: Sequence[Volumes], labels: Sequence[Volumes], where: str, *, look: str
) -> tuple[list[Pair], int]:
    """Pair volumes that lie in several folders.

    A folder of images none of which has a label holds unlabelled cases: they are left out. Where one has, all must.

    Args:
        images: the images of each folder.
        labels: the labels of each folder.
        where: how errors name the whole.
        look: how they say what was looked for.

    Returns:
        The cases, and the number of images left out.

    Raises:
        InputError: as `pair_up`, and where a case lies in two folders.
    """
    named = {case for volumes in images for case in volumes}
    labelled = {case for volumes in labels for case in volumes}
    kept = [volumes for volumes in images if not volumes.keys().isdisjoint(labelled)]
    if not kept:
        raise InputError(f"{where}: no {look}; give the folder that holds them")
    left_out = sum(map(len, images)) - sum(map(len, kept))
    partners = [volumes for volumes in labels if not volumes.keys().isdisjoint(named)]
    return pair_up(_joined(kept, where), _joined(partners, where), where), left_out


def _joined(parts: Sequence[Volumes], where: str) -> Volumes:
    whole: Volumes = {}
    for part in parts:
        if twice := sorted(whole.keys() & part.keys()):
            raise InputError(f"{twice[0]}: found in two folders of {where}; give the folder that holds one copy")
        whole |= part
    return whole


def with_series(pairs: Sequence[Pair], uids: Sequence[str]) -> list[Pair]:
    """Return the cases with FOLDER/UID for an image that is a DICOM folder of several series; headers alone are read.

    Args:
        pairs: the cases.
        uids: the series chosen, each in one case's folder.

    Raises:
        InputError: a folder of several series none or several of which are chosen, or a UID that no folder has.
    """
    used: set[str] = set()
    chosen = [_with_series(pair, uids, used) if pair.image.is_dir() else pair for pair in pairs]
    if lost := [uid for uid in uids if uid not in used]:
        raise InputError(f"--series {lost[0]}: no folder among the images holds it; check the UID")
    return chosen


def _with_series(pair: Pair, uids: Sequence[str], used: set[str]) -> Pair:
    from ragsam.io.dicom_headers import choose_series, list_series

    series = list_series(pair.image, pair.case)
    asked = [one.uid for one in series if one.uid in uids]
    used.update(asked)
    uid = choose_series(series, asked[0] if len(asked) == 1 else None, pair.case).uid
    return replace(pair, image=pair.image / uid) if len(series) > 1 else pair


def _is_dicom(folder: Path) -> bool:
    # The transforms take MONAI along, some seconds, so they are only imported where a folder lies among the images.
    from ragsam.io.dicom_headers import is_dicom_folder

    return is_dicom_folder(folder)
