"""Which prediction belongs to which reference."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ragsam.data.datalist import Case
from ragsam.data.preparation.files import volumes_in
from ragsam.errors import InputError
from ragsam.io.volume_names import SUFFIXES, composed


@dataclass(frozen=True)
class CasePair:
    """One case to be evaluated.

    Attributes:
        case: the study's own key of the volume.
        patient: the study's own key of the patient; None if none is known: the case then counts as its own patient.
        reference: label volume to compare with.
        prediction: label volume to be scored; None if absent.
        image: the volume both belong to, for pictures only.
        annotated: the organs the reference covers; None if it covers the whole card.
        label_map: the reference's values to the card's; None if they are the card's.
        prediction_map: the same of the prediction, see `with_numbering`.
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
    prediction_map: Mapping[int, int] | None = field(default=None, hash=False)


def pairs_from_folders(
    reference_dir: str | os.PathLike[str],
    prediction_dir: str | os.PathLike[str],
    *,
    image_dir: str | os.PathLike[str] | None = None,
    patients: Mapping[str, str] | None = None,
) -> list[CasePair]:
    """Match the volumes of two folders by name, whatever their formats; sorted by case.

    Every reference is a case, named as its file without suffix; its prediction is None if it has no file.

    Args:
        image_dir: images of the same names, for pictures only.
        patients: {case: patient}; without it every case counts as a patient of its own, and the result says so.

    Raises:
        InputError: where a folder does not exist, has no reference, holds one case twice, or `patients` lacks a case.
    """
    references = _volumes(reference_dir)
    predictions = _volumes(prediction_dir)
    images = {}
    if image_dir is not None:
        images = _volumes(image_dir)
    if not references:
        raise InputError(
            f"{reference_dir}: no volume ({', '.join(SUFFIXES)}); name the folder that holds the references"
        )
    if patients is None:
        patients = dict.fromkeys(references)
    lacking = sorted(references.keys() - patients.keys())
    if lacking:
        raise InputError(f"{lacking[0]}: not in the patient table ({len(lacking)} such); add it")
    pairs = []
    for case, reference in sorted(references.items()):
        pairs.append(CasePair(case, patients[case], reference, predictions.get(case), images.get(case)))
    return pairs


def pairs_from_cases(cases: Sequence[Case], prediction_dir: str | os.PathLike[str]) -> list[CasePair]:
    """Pair the cases of a datalist with predictions named `<case>` and a volume's suffix, in the datalist's order.

    Raises:
        InputError: where the folder does not exist, or a case has no reference label.
    """
    predictions = _volumes(prediction_dir)
    pairs = []
    for case in cases:
        if case.label is None:
            raise InputError(f"{case.case}: no reference label in the datalist; evaluate only labelled cases")
        prediction = predictions.get(composed(case.case))
        drawn = (case.image, case.annotated, case.label_map, case.fill_nonfinite)
        pairs.append(CasePair(case.case, case.patient, case.label, prediction, *drawn))
    return pairs


def unmatched_predictions(reference_dir: str | os.PathLike[str], prediction_dir: str | os.PathLike[str]) -> list[str]:
    """Return the names of predictions that no reference answers to: they are not evaluated, and a user should know."""
    return sorted(_volumes(prediction_dir).keys() - _volumes(reference_dir).keys())


def _volumes(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return {name without suffix: path} of a folder's volumes, where it has none of its DICOM series."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    return volumes_in(folder, readable=True) or volumes_in(folder, dicom=True)
