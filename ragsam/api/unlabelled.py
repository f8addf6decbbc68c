"""Volumes without labels that a training may learn from: which they are, and whose."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ragsam.data.cards.load import load_card
from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case, Datalist, load_datalist
from ragsam.data.preparation.tables import SUBJECTS, patients_of
from ragsam.data.pseudo_labels import require_apart
from ragsam.errors import InputError
from ragsam.inference.inputs import cases_of_inputs

logger = logging.getLogger(__name__)

SECTION = "unlabelled"


def unlabelled_cases(volumes: Sequence[str | os.PathLike[str]], data: Datalist) -> list[Case]:
    """Return the volumes to learn from without labels, each with its patient; labels that they have are not read.

    Args:
        volumes: folders of volumes, volumes, DICOM folders, patterns (`scans/*.nii.gz`), or datalists, of which the
            section `unlabelled` is taken. The patient of a volume is the datalist's; else that of `subjects.csv` in
            its folder or the one above, or of the card's patient rule.
        data: of the training. Its training images are left out.

    Raises:
        InputError: no such volume, two of one name, a volume whose patient is not known, or one that no training may
            see, see `require_apart`.
    """
    card = load_card(data.card)
    cases: list[Case] = []
    for path in _paths(volumes):
        if path.suffix.lower() == ".json":
            cases += load_datalist(path, card).section(SECTION)
        else:
            cases += _with_patients(path, card)
    known = {case.image for case in data.sections.get("training", ())}
    new = {}
    for case in cases:
        if case.image in known:
            continue
        if case.case.casefold() in new:
            raise InputError(f"--unlabelled: {case.case}: two volumes of this name; rename one")
        new[case.case.casefold()] = replace(case, label=None, annotated=None, label_map=None)
    if len(new) < len(cases):
        logger.info("unlabelled: %d volumes are labelled training cases; left out", len(cases) - len(new))
    if not new:
        raise InputError("--unlabelled: no volume that is not a training case; name others")
    require_apart(list(new.values()), data)
    return list(new.values())


def _paths(volumes: Sequence[str | os.PathLike[str]]) -> Iterator[Path]:
    """Yield the paths that are named, those of a pattern in the order of their names."""
    for volume in volumes:
        if Path(volume).exists():
            yield Path(volume)
            continue
        matching = sorted(glob.glob(os.fspath(volume), recursive=True))
        if not matching:
            raise InputError(f"--unlabelled: {volume}: no such file, folder or pattern; check the path")
        yield from map(Path, matching)


def _with_patients(path: Path, card: Card) -> list[Case]:
    """Return the cases of a volume or a folder with their patients."""
    cases = cases_of_inputs([path], card=card)
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    source = folder if (folder / SUBJECTS).is_file() else folder.parent
    patients = patients_of([case.case for case in cases], card, source)
    return [replace(case, patient=patients[case.case]) for case in cases]
