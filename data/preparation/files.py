"""Volumes in folders: which files are volumes, what cases they are, and which image has which label."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import filterfalse
from pathlib import Path

from ragsam.errors import InputError
from ragsam.io.dicom_headers import choose_series, is_dicom_folder, list_series
from ragsam.io.volume_names import SUFFIXES, checked_name, volume_name

_DEPTH = 4  # folders below the source that are looked into
_SHOWN_FAULTS = 5

Volumes = dict[str, Path]  # by case
CaseOf = Callable[[str], str | None]  # from a file's name without suffix; None if the file is something else


@dataclass(frozen=True)
class Pair:
    """A case's image and label."""

    case: str
    image: Path
    label: Path


def volumes_in(folder: Path, case_of: CaseOf = str, *, dicom: bool = False, readable: bool = False) -> Volumes:
    """Return the volumes of a folder, not below it, by case; other files, and hidden ones, are passed over.

    Args:
        case_of: how a file's name without suffix gives the case.
        dicom: whether a folder that holds DICOM files counts as a volume of its name.
        readable: whether a file whose name is not UTF-8 is a case too, see `volume_name`.

    Raises:
        InputError: no such folder, two files of one case, or a name that is not UTF-8.
    """
    if not folder.is_dir():
        raise InputError(f"{folder.parent.name}: no folder {folder.name}; give the folder that holds it")
    found: Volumes = {}
    for path in sorted(folder.glob("[!.]*")):  # macOS leaves files named ._something
        name = volume_name(path, readable=readable)
        if path.is_dir():
            name = checked_name(path.name) if dicom and is_dicom_folder(path) else None
        if name is None:
            continue
        case = case_of(name)
        if case in found:
            raise InputError(f"{case}: two volumes of that name in {folder.name}; remove one")
        if case is not None:
            found[case] = path
    return found


def folders_below(source: Path) -> Iterator[Path]:
    """Yield a folder and those up to four levels below it, hidden ones left out, in the order of their names."""
    for place, below, _ in os.walk(source, followlinks=True):
        folder = Path(place)
        below[:] = sorted(name for name in below if not name.startswith("."))
        if len(folder.relative_to(source).parts) >= _DEPTH:
            below.clear()
        yield folder


def pair_up(images: Mapping[str, Path], labels: Mapping[str, Path], where: str) -> list[Pair]:
    """Return the cases by name; raises InputError for an image without label, a label without image, or neither."""
    faults = [f"{case}: image without label" for case in sorted(images.keys() - labels.keys())]
    faults += [f"{case}: label without image" for case in sorted(labels.keys() - images.keys())]
    if faults:
        shown = ", ".join(faults[:_SHOWN_FAULTS])
        if len(faults) > _SHOWN_FAULTS:
            shown += f" and {len(faults) - _SHOWN_FAULTS} more"
        raise InputError(f"{shown}; add the missing file or move its partner out of {where}")
    if not images:
        raise InputError(f"{where}: no volumes ({', '.join(SUFFIXES)}); check the folder")
    return [Pair(case, images[case], labels[case]) for case in sorted(images)]


def pair_scattered(
    images: Sequence[Volumes], labels: Sequence[Volumes], where: str, *, look: str
) -> tuple[list[Pair], int]:
    """Pair volumes that are in several folders; return the cases, and the number of images left out.

    A folder of images none of which has a label holds unlabelled cases: they are left out. Where one has, all must.

    Args:
        images, labels: those of each folder.
        where, look: how errors name the whole, and what was looked for.

    Raises:
        InputError: as `pair_up`, and where a case is in two folders.
    """
    having_image = set().union(*images)
    having_label = set().union(*labels)
    labelled = [volumes for volumes in images if having_label & volumes.keys()]
    partners = [volumes for volumes in labels if having_image & volumes.keys()]
    if not labelled:
        raise InputError(f"{where}: no {look}; give the folder that holds them")
    left_out = sum(map(len, images)) - sum(map(len, labelled))
    return pair_up(_joined(labelled, where), _joined(partners, where), where), left_out


def _joined(parts: Sequence[Volumes], where: str) -> Volumes:
    whole: Volumes = {}
    for part in parts:
        twice = whole.keys() & part.keys()
        if twice:
            raise InputError(f"{min(twice)}: found in two folders of {where}; give the folder that holds one copy")
        whole |= part
    return whole


def with_series(pairs: Sequence[Pair], uids: Sequence[str]) -> list[Pair]:
    """Return the cases with FOLDER/UID for an image that is a DICOM folder of several series; headers alone are read.

    Raises:
        InputError: a folder of several series none or several of which are chosen, or a UID that no folder has.
    """
    chosen: list[Pair] = []
    used: set[str] = set()
    for pair in pairs:
        if pair.image.is_dir():
            series = list_series(pair.image, pair.case)
            asked = {one.uid for one in series} & set(uids)
            used |= asked
            uid = min(asked) if len(asked) == 1 else None
            one = choose_series(series, uid, pair.case)
            if len(series) > 1:
                pair = replace(pair, image=pair.image / one.uid)
        chosen.append(pair)
    lost = list(filterfalse(used.__contains__, uids))
    if lost:
        raise InputError(f"--series {lost[0]}: no folder among the images holds it; check the UID")
    return chosen
