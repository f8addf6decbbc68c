"""What is given to segment, as cases: volumes, DICOM folders, datalists."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case, load_datalist, paths_of
from ragsam.data.preparation.files import volumes_in
from ragsam.errors import InputError
from ragsam.io.dicom_headers import is_dicom_folder, list_series, scan_folder, split_series
from ragsam.io.volume_names import SUFFIXES, checked_name, readable_name, volume_name

logger = logging.getLogger(__name__)


def cases_of_inputs(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    card: Card | None = None,
    section: str = "test",
    series: Sequence[str] = (),
) -> list[Case]:
    """Return the cases of all inputs; nothing is read but datalists, and DICOM headers where a series is named.

    Args:
        inputs: volumes (see `SUFFIXES`), folders of volumes, DICOM folders, or datalists, of which `section` is taken.
            A case is named after its file without suffix, or its DICOM folder, and taken for a patient of its own.
        card: whose labels a datalist's card must have; None takes any.
        section: of a datalist.
        series: Series Instance UIDs; of each DICOM folder the one is taken that it holds.

    Raises:
        InputError: two inputs of one name, a datalist of another card, a folder that holds several of the series, a
            series but no DICOM folder, or another kind of file.
    """
    cases: list[Case] = []
    for path in inputs:
        cases += _cases_of(Path(path), card, section, series)
    names = sorted(case.case for case in cases)
    for name, following in pairwise(names):
        if name == following:
            raise InputError(f"{name}: two inputs of this name; segment them into two folders")
    if series and not any(map(is_dicom, cases)):
        raise InputError("--series: no input is a DICOM folder; leave it out")
    return cases


def files_read(inputs: Sequence[str | os.PathLike[str]], cases: Sequence[Case]) -> list[Path]:
    """Return the files and DICOM folders that inputs name, with the images and labels of their cases."""
    return [*map(Path, inputs), *(split_series(path)[0] for path in paths_of(cases))]


def is_dicom(case: Case) -> bool:
    """Return whether a case's image is a DICOM folder, or a series of one."""
    folder, _ = split_series(case.image)
    return folder.is_dir()


def skipped_files(case: Case) -> int:
    """Return how many files of a case's DICOM folder are no DICOM images."""
    folder, _ = split_series(case.image)
    _, skipped = scan_folder(folder, case.case)
    return skipped


def _cases_of(path: Path, card: Card | None, section: str, series: Sequence[str]) -> Sequence[Case]:
    folder, uid = split_series(path.absolute())
    if folder.is_dir():
        volumes = {} if uid else volumes_in(folder, readable=True)
        if volumes and not is_dicom_folder(folder):
            _tell_left_out(folder, volumes.values())
            return [Case(name, name, image) for name, image in volumes.items()]
        name = checked_name(Path(os.path.normpath(folder)).name)
        uid = uid or _asked_for(folder, series, name)
        return [Case(case=name, patient=name, image=folder / uid)]
    if path.suffix.lower() == ".json":
        return load_datalist(path, card).section(section)
    name = volume_name(path, readable=True)
    if name is None:
        raise InputError(
            f"{path.name}: not a volume ({', '.join(SUFFIXES)}), a DICOM folder or a datalist (.json); convert it first"
        )
    return [Case(case=name, patient=name, image=path.absolute())]


def _tell_left_out(folder: Path, taken: Iterable[Path]) -> None:
    files = {path for path in folder.glob("[!.]*") if path.is_file()}
    if left_out := len(files.difference(taken)):
        logger.info("%s: %d files of the folder are not volumes; skipped", readable_name(folder.name), left_out)


def _asked_for(folder: Path, series: Sequence[str], name: str) -> str:
    """Return the one series of a folder that was asked for; nothing where none was."""
    if not series:
        return ""
    try:
        held = {one.uid for one in list_series(folder, name)}
    except InputError:
        return ""  # reported when the folder is opened, so that the other inputs continue
    here = [uid for uid in series if uid in held]
    if len(here) > 1:
        raise InputError(f"{name}: two of the series asked for are in this folder; segment them one by one")
    return (here or series)[0]
