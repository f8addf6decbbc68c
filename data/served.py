"""What a server such as MONAI Label hands to a data set: items {image, label} without case or patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.data.datalist import Case
from ragsam.io.read_volume import SUFFIXES


def case_name(path: str | None) -> str | None:
    """Return what a volume is called after its file, or its folder of DICOM; None for none."""
    if not path:
        return None
    name = Path(path).name
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def as_cases(items: Sequence[Case | Mapping[str, Any]]) -> list[Case]:
    """Return cases as they are, and items {"image": path, "label": path} as cases named after their images.

    Each such image is taken for a patient of its own, since nothing tells its patient.
    """
    return [item if isinstance(item, Case) else _case(item) for item in items]


def _case(item: Mapping[str, Any]) -> Case:
    name, label = str(case_name(str(item["image"]))), item.get("label")
    return Case(name, name, Path(item["image"]).absolute(), Path(label).absolute() if label else None)
