"""Makes a small study of real NIfTI files: two organs, learnt in seconds, stored RAS, flipped and oblique."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ragsam.data.datalist import Case, write_datalist
from ragsam.outputs import RECORD
from ragsam.runs.run import RunFolder

#: Stands in every header's free text, as scanners write it. It must not come out again anywhere.
HEADER_NAME = "DOE^JANE 1970"
QUICK = {"epochs": 2, "steps_per_epoch": 10, "batch_size": 4, "validate_every": 1, "neighbours": 8}
SPACING_MM = (1.0, 1.0, 3.0)
TRAINING = {"case-tr0": "patient-anna", "case-tr1": "patient-anna", "case-tr2": "patient-bert"}
TRAINING |= {"case-tr3": "patient-cleo", "case-tr4": "patient-dora"}


def rotation(degrees_x: float, degrees_z: float) -> np.ndarray:
    """Return the matrix [3, 3] of a turn about x, then about z."""
    (cx, sx), (cz, sz) = ((np.cos(a), np.sin(a)) for a in np.radians((degrees_x, degrees_z)))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_x


def anatomy(seed: int, shape: Sequence[int] = (32, 32, 6)) -> tuple[np.ndarray, np.ndarray]:
    """Return (image int16, label uint8), RAS: organ 1 is the bright ellipsoid on the left, organ 2 the dimmer one."""
    rng = np.random.default_rng(seed)
    x, y, z = (index - (side - 1) / 2 for index, side in zip(np.indices(shape), shape, strict=True))
    dx, dy = rng.uniform(-3, 3, 2)
    label = np.zeros(shape, np.uint8)
    label[((x + 5 - dx) / 5) ** 2 + ((y - dy) / 7) ** 2 + (z / 2.7) ** 2 < 1] = 1
    label[((x - 6 - dx) / 4) ** 2 + ((y - 3 - dy) / 5) ** 2 + (z / 2.7) ** 2 < 1] = 2
    image = rng.normal(0, 5, shape) + 100 * (label == 1) + 50 * (label == 2)
    return image.astype(np.int16), label


def save_volume(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write NIfTI whose header names a person."""
    volume = nib.Nifti1Image(array, affine)
    volume.header["descrip"], volume.header["db_name"] = HEADER_NAME.encode(), b"DOE^JANE"
    volume.header["intent_name"], volume.header["aux_file"] = b"DOE^JANE", b"DOE^JANE"
    volume.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(volume, path)
    return path


def affine_of(turn: np.ndarray | None = None, *, origin: Sequence[float] = (-20.0, 13.0, 5.0)) -> np.ndarray:
    """Return the affine (4, 4) of the study's spacing."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ np.diag(SPACING_MM)
    affine[:3, 3] = origin
    return affine


def flipped(array: np.ndarray, affine: np.ndarray, axes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the same volume with some array axes run the other way: no voxel moves in the world."""
    turn = np.eye(4)
    for axis in axes:
        turn[axis, axis], turn[axis, 3] = -1, array.shape[axis] - 1
    return np.ascontiguousarray(np.flip(array, axes)), affine @ turn


def write_study(folder: Path) -> Path:
    """Write 5 training volumes of 4 patients, 1 for validation, and 3 test volumes: RAS, flipped and oblique."""
    sections: dict[str, list[Case]] = {"training": [], "validation": [], "test": []}
    people = [("training", *item) for item in TRAINING.items()]
    people += [("validation", "case-va0", "patient-emil")]
    people += [("test", f"case-te-{how}", f"patient-{how}") for how in ("ras", "flipped", "oblique")]
    for seed, (section, case, patient) in enumerate(people):
        paths = {}
        for kind, array in zip(("image", "label"), anatomy(seed), strict=True):
            affine = affine_of(rotation(20, 10) if case.endswith("oblique") else None)
            if case.endswith("flipped"):
                array, affine = flipped(array, affine, (0, 2))
            paths[kind] = save_volume(folder / kind / f"{case}.nii.gz", array, affine)
        sections[section].append(Case(case, patient, paths["image"], paths["label"]))
    write_datalist(folder / "datalist.json", "hippocampus", sections)
    return folder / "datalist.json"


def files_below(folder: Path) -> list[str]:
    """Return the names of all files below a folder but the records of what was written; none for no folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != RECORD]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def with_numbers(names: Iterable[str]) -> list[str]:
    """Return the names of a segmentation's files, those that name the label volumes' numbers among them, sorted."""
    names = list(names)
    volumes = [name.removesuffix(".nii.gz") for name in names if name.endswith(".nii.gz") and "/" not in name]
    return sorted([*names, *(f"{name}.labels.json" for name in volumes)])


def log_lines(text: str) -> list[str]:
    """Return the lines of a stderr that are not the log's."""
    return [line for line in text.splitlines() if not (line[:2].isdigit() and line[2:3] == ":")]


def workflow_of(run: Path) -> Any:
    """Return the workflow of a run's training, ready to run."""
    workflow = RunFolder(run, "train").workflow("train")
    workflow.initialize()
    return workflow
