"""From the official layout of a data set to a datalist, split by patient. No voxel is copied."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ragsam.data.cards import Card, load_card
from ragsam.data.datalist import Case, write_datalist
from ragsam.errors import InputError

_SUFFIXES = (".nii.gz", ".nii")
_SUBJECTS = "subjects.csv"
_SPLITS = {"hippocampus": {"test": 30, "validation": 8}}  # patients
_DEFAULT_SHARE = {"test": 0.2, "validation": 0.1}


def prepare(
    card_name: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    validation: int | None = None,
    test: int | None = None,
    subjects: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a datalist for a data set in the Decathlon layout.

    Args:
        card_name: a card's name, or the path of a card's yaml file.
        source: folder with `imagesTr/` and `labelsTr/`, files of one case named alike; it is only read.
        output: the datalist to write, anywhere; its paths lead to `source`.
        seed: of the split.
        validation: number of patients for validation; None: 8 for hippocampus, a tenth for others.
        test: number of patients for the test; None: 30 for hippocampus, a fifth for others.
        subjects: table with the columns `case,patient` (or `case,inferred_subject`). None: `subjects.csv` in
            `source` where there is one, else the card's patient rule.

    Returns:
        The datalist's path.

    Raises:
        InputError: wrong layout, image without label or label without image, a case whose patient is not known, too
            few patients for the split.
    """
    card, source = load_card(card_name), Path(source).absolute()
    images, labels = (_files(source, name) for name in ("imagesTr", "labelsTr"))
    _require_pairs(images, labels, source)
    patients = _patients(sorted(images), card, source, Path(subjects) if subjects is not None else None)
    cases = [Case(name, patients[name], images[name], labels[name]) for name in sorted(images)]
    sections = split_by_patient(cases, seed=seed, **_counts(card, len(set(patients.values())), validation, test))
    write_datalist(output, card_name, sections)
    return Path(output)


def split_by_patient(cases: list[Case], *, validation: int, test: int, seed: int) -> dict[str, list[Case]]:
    """Deal patients to test, validation and training; all cases of a patient stay together.

    Args:
        cases: in any order; the split depends on the patients' names and the seed alone.
        validation: number of patients.
        test: number of patients.
        seed: of the shuffle.

    Returns:
        Cases under `training`, `validation` and `test`, in the order given.

    Raises:
        InputError: a negative number, or no patient left for training.
    """
    patients = sorted({case.patient for case in cases})
    if min(validation, test) < 0:
        raise InputError(f"split: validation {validation}, test {test}; numbers of patients must not be negative")
    if validation + test >= len(patients):
        raise InputError(
            f"split: {test} test and {validation} validation patients of {len(patients)} leave none for training; "
            "ask for fewer"
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    part = {patients[i]: "test" if n < test else "validation" for n, i in enumerate(order[: test + validation])}
    sections: dict[str, list[Case]] = {"training": [], "validation": [], "test": []}
    for case in cases:
        sections[part.get(case.patient, "training")].append(case)
    return sections


def _counts(card: Card, patients: int, validation: int | None, test: int | None) -> dict[str, int]:
    asked = {"validation": validation, "test": test}
    default = _SPLITS.get(card.name) or {name: round(share * patients) for name, share in _DEFAULT_SHARE.items()}
    return {name: default[name] if count is None else count for name, count in asked.items()}


def _files(source: Path, name: str) -> dict[str, Path]:
    folder = source / name
    if not folder.is_dir():
        raise InputError(f"{source.name}: no folder {name}; give the folder that holds imagesTr and labelsTr")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((end for end in _SUFFIXES if path.name.endswith(end)), None)
        if suffix is None or path.name.startswith("."):  # macOS leaves files named ._something
            continue
        case = path.name.removesuffix(suffix)
        if case in found:
            raise InputError(f"{case}: both .nii and .nii.gz in {name}; remove one")
        found[case] = path
    return found


def _require_pairs(images: Mapping[str, Path], labels: Mapping[str, Path], source: Path) -> None:
    faults = [f"{case}: image without label" for case in sorted(images.keys() - labels.keys())]
    faults += [f"{case}: label without image" for case in sorted(labels.keys() - images.keys())]
    if faults:
        shown = ", ".join(faults[:5]) + (f" and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise InputError(f"{shown}; add the missing file or move its partner out of {source.name}")
    if not images:
        raise InputError(f"{source.name}: no .nii or .nii.gz file in imagesTr; check the folder")


def _patients(cases: list[str], card: Card, source: Path, table: Path | None) -> dict[str, str]:
    if table is None and (source / _SUBJECTS).is_file():
        table = source / _SUBJECTS
    if table is not None:
        known = _read_table(table)
        where = table.name
    elif card.patient_rule is not None:
        known = {case: patient for case in cases if (patient := card.patient_rule.patient(case)) is not None}
        where = f"the patient rule of card {card.name} ({card.patient_rule.pattern})"
    else:
        raise InputError(f"{source.name}: no patient key; give a table with --patients FILE.csv (columns case,patient)")
    if missing := [case for case in cases if case not in known]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}{more}: no patient in {where}; give a complete table with --patients FILE.csv")
    return {case: known[case] for case in cases}


def _read_table(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name for name in ("patient", "inferred_subject") if name in (reader.fieldnames or ())]
            if not columns or "case" not in (reader.fieldnames or ()):
                raise InputError(f"{path.name}: columns case and patient not found; name them in the first line")
            rows = [((row["case"] or "").strip(), (row[columns[0]] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path.name}: table of patients cannot be read ({reason}); check the file") from error
    known: dict[str, str] = {}
    for case, patient in rows:
        if not case or not patient:
            raise InputError(f"{path.name}: a line without case or patient ({case or 'no case'}); complete it")
        if known.setdefault(case, patient) != patient:
            raise InputError(f"{case}: two patients in {path.name}; keep one line for each case")
    return known
