"""What a server such as MONAI Label hands to a data set: items {image, label} without case or patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.data.datalist import Case
from ragsam.io.volume_names import volume_name


def case_name(path: str | None) -> str | None:
    """Return what a volume is called after its file, or its folder of DICOM; None for none."""
    if not path:
        return None
    name = volume_name(Path(path))
    if name is None:
        return Path(path).name
    return name


def as_cases(items: Sequence[Case | Mapping[str, Any]]) -> list[Case]:
    """Return cases as they are, and items {"image": path, "label": path} as cases named after their images.

    Each such image is taken for a patient of its own, since nothing gives its patient.
    """
    cases = []
    for item in items:
        if isinstance(item, Case):
            cases.append(item)
            continue
        name = str(case_name(str(item["image"])))
        image = Path(item["image"]).absolute()
        label = Path(item["label"]).absolute() if item.get("label") else None
        cases.append(Case(name, name, image, label))
    return cases
