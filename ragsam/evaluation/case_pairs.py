"""Which prediction belongs to which reference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ragsam.data.datalist import Case
from ragsam.errors import InputError

SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class CasePair:
    """One case to be evaluated.

    Attributes:
        case: the study's own key of the volume.
        patient: the study's own key of the patient; None where none is known: the case then counts as its own patient.
        reference: label volume to compare with.
        prediction: label volume to be scored; None where there is none.
        image: the volume both belong to, for pictures only.
        annotated: the organs the reference covers; None where it covers the whole card.
        label_map: the reference's values to the card's; None where they are the card's. Predictions have the card's.
        fill_nonfinite: what NaN and infinite voxels of the image are drawn as; None draws no such image.
    """

    case: str
    patient: str | None
    reference: Path
    prediction: Path | None
    image: Path | None = None
    annotated: tuple[str, ...] | None = None
    label_map: Mapping[int, int] | None = field(default=None, hash=False)
    fill_nonfinite: float | None = None


def pairs_from_folders(
    reference_dir: str | os.PathLike[str],
    prediction_dir: str | os.PathLike[str],
    *,
    image_dir: str | os.PathLike[str] | None = None,
    patients: Mapping[str, str] | None = None,
) -> list[CasePair]:
    """Match the NIfTI files of two folders by name, `.nii` and `.nii.gz` alike; sorted by case.

    Args:
        reference_dir: every volume in it is a case; its file name without suffix is the case's name.
        prediction_dir: where a case has no file, its prediction is None.
        image_dir: images of the same names, for pictures only.
        patients: {case: patient}; without it every case counts as a patient of its own, and the result says so.

    Raises:
        InputError: where a folder does not exist, has no reference, holds one case twice, or `patients` lacks a case.
    """
    references, predictions = _volumes(reference_dir), _volumes(prediction_dir)
    images = _volumes(image_dir) if image_dir is not None else {}
    if not references:
        raise InputError(f"{reference_dir}: no .nii or .nii.gz file; name the folder that holds the references")
    if patients is not None and (lacking := sorted(set(references) - set(patients))):
        raise InputError(f"{lacking[0]}: not in the patient table ({len(lacking)} such); add it")
    return [
        CasePair(case, patients[case] if patients else None, path, predictions.get(case), images.get(case))
        for case, path in sorted(references.items())
    ]


def pairs_from_cases(cases: Sequence[Case], prediction_dir: str | os.PathLike[str]) -> list[CasePair]:
    """Pair the cases of a datalist with predictions named `<case>.nii.gz` (or `.nii`), in the datalist's order.

    Raises:
        InputError: where the folder does not exist, or a case has no reference label.
    """
    predictions = _volumes(prediction_dir)
    pairs = []
    for case in cases:
        if case.label is None:
            raise InputError(f"{case.case}: no reference label in the datalist; evaluate only labelled cases")
        pairs.append(
            CasePair(
                case.case,
                case.patient,
                case.label,
                predictions.get(case.case),
                case.image,
                case.annotated,
                case.label_map,
                case.fill_nonfinite,
            )
        )
    return pairs


def unmatched_predictions(reference_dir: str | os.PathLike[str], prediction_dir: str | os.PathLike[str]) -> list[str]:
    """Return the names of predictions that no reference answers to: they are not evaluated, and a user should know."""
    return sorted(set(_volumes(prediction_dir)) - set(_volumes(reference_dir)))


def _volumes(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return {name without suffix: path} of a folder's NIfTI files."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in SUFFIXES if path.name.endswith(s)), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.name.removesuffix(suffix)
        if name in found:
            raise InputError(f"{name}: in {folder} as .nii and as .nii.gz; remove one of them")
        found[name] = path
    return found
