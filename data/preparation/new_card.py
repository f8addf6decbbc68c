"""A card of your own, begun from label volumes: the values found in them, and what their images tell."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragsam.console.case_progress import CaseProgress
from ragsam.data.cards.load import parse_card
from ragsam.data.preparation.files import Volumes, volumes_in
from ragsam.errors import InputError
from ragsam.files import write_text_atomic
from ragsam.io.documents import parse_yaml
from ragsam.io.volume_names import without_suffix
from ragsam.outputs import Outputs

#: Soft tissue, Hounsfield units: level 40, width 400.
_SOFT_TISSUE = (-160, 240)
#: An image with voxels below this is a CT: air is -1000 HU there.
_BELOW_CT = -300
#: Images that are read, and voxels of each that are kept.
_IMAGES, _VOXELS = 20, 50_000
_MODALITIES = ("CT", "MR")
_MOST = 255


def new_card(
    labels: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    modality: str | None = None,
    overwrite: bool = False,
) -> list[int]:
    """Write a card whose organs are the values of label volumes, their names left to fill in; return the values.

    Args:
        labels, images: a volume, or a folder of volumes.
        output: the card's .yaml file.
        modality: CT or MR; None finds it out by the images.
        overwrite: replace a file that is not the package's own.

    Raises:
        InputError: no volumes, none with a label, values that are no whole numbers from 0 on, more than 255 of them,
            or neither modality nor images.
    """
    path = Path(output)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"--output {path.name}: a card is a .yaml file; name it so")
    if modality is None and images is None:
        raise InputError("--modality: CT or MR? name it, or the images by --images")
    if modality not in (None, *_MODALITIES):
        raise InputError(f"--modality {modality}: take CT or MR")
    label_files = _volumes(Path(labels))
    image_files = {} if images is None else _volumes(Path(images))
    with Outputs.of_file(path, reads=[*label_files.values(), *image_files.values()], overwrite=overwrite):
        voxels, cases = _values(label_files)
        inside, lowest = _sample(image_files, label_files)
        if modality is None:
            modality = "CT" if lowest < _BELOW_CT else "MR"
        head = _head(path.stem, modality, _window(modality, inside))
        text = "\n".join([*head, *_organs(voxels, cases, len(label_files)), *_TAIL]) + "\n"
        parse_card(parse_yaml(text, path.name), where=path.name)
        write_text_atomic(path, text)
    return sorted(voxels)


def _volumes(place: Path) -> Volumes:
    if place.is_file():
        return {without_suffix(place.name): place}
    found = volumes_in(place, dicom=True)
    if not found:
        raise InputError(f"{place.name}: no volumes in it; give the folder that holds them")
    return found


def _values(files: Volumes) -> tuple[Counter[int], Counter[int]]:
    """Return the voxels of each value, and the volumes that have it."""
    from ragsam.data.checks.check_case import scan_volume  # takes seconds; not needed for the command's help
    from ragsam.data.checks.label_counts import LabelCounts

    voxels: Counter[int] = Counter()
    cases: Counter[int] = Counter()
    with CaseProgress("labels", len(files)) as progress:
        for number, (case, path) in enumerate(files.items(), start=1):
            counts = LabelCounts()
            scan_volume(path, case, counts)
            found = {value: count for value, count in counts.voxels.items() if value != 0}
            if counts.broken or min(found, default=1) < 0:
                odd = counts.example if counts.broken else min(found)
                raise InputError(f"{case}: a voxel is {odd:g}, not a whole number from 0 on; give label volumes")
            voxels.update(found)
            cases.update(found.keys())
            progress(number)
    if not voxels:
        raise InputError(f"none of {len(files)} volumes has a label above 0; give label volumes")
    if len(voxels) > _MOST:
        raise InputError(f"{len(voxels)} values in the volumes, above the {_MOST} of a card; give label volumes")
    return voxels, cases


def _sample(images: Volumes, labels: Volumes) -> tuple[NDArray[np.float64], float]:
    """Return voxels of images, labelled ones where an image has a label of its shape, and the lowest of all."""
    from ragsam.data.checks.check_case import scan_volume

    parts = [np.empty(0)]
    lowest = 0.0
    for case, path in list(images.items())[:_IMAGES]:
        image, _ = scan_volume(path, case, keep=True)
        voxels = np.asarray(image.dataobj, np.float64)
        lowest = min(lowest, float(voxels.min()))
        if case in labels:
            label, _ = scan_volume(labels[case], case, keep=True)
            mask = np.asarray(label.dataobj) > 0
            if mask.shape == voxels.shape and mask.any():
                voxels = voxels[mask]
        parts.append(voxels.ravel()[:: max(1, voxels.size // _VOXELS)])
    return np.concatenate(parts), lowest


def _window(modality: str, sample: NDArray[np.float64]) -> tuple[int, int] | None:
    """Return percentiles 0.5 and 99.5 of a CT's voxels, to 5 HU; None for MR, where each volume has its own scale."""
    if modality == "MR":
        return None
    if not sample.size:
        return _SOFT_TISSUE
    low, high = (5 * round(bound / 5) for bound in np.percentile(sample, (0.5, 99.5)))
    return (low, high) if low < high else _SOFT_TISSUE


def _head(name: str, modality: str, window: tuple[int, int] | None) -> list[str]:
    quoted = json.dumps(name, ensure_ascii=False)
    return [
        f"name: {quoted}",
        f"title: {quoted}  # what it is, in a line",
        f"modality: {modality}  # CT or MR",
        f"window: {list(window)}  # Hounsfield units" if window else "window: null  # percentiles of each volume",
    ]


def _organs(voxels: Mapping[int, int], cases: Mapping[int, int], total: int) -> list[str]:
    lines = ["organs:  # name them; colour, tolerance_mm and code are optional"]
    for index, value in enumerate(sorted(voxels), start=1):
        lines.append(f"  - name: label_{value}  # {voxels[value]} voxels in {cases[value]} of {total} volumes")
        if value != index:
            lines.append(f"    raw: [{value}]  # its number in the label files")
    return lines


_TAIL = (
    "# Remove the # from the lines that apply:",
    "# patient_rule: {note: every case is a different patient, case_is_patient: true}",
    "# left_right: [[left_kidney, right_kidney]]  # organs that a mirror exchanges",
    "# licence, source, citation: of the data set",
)
