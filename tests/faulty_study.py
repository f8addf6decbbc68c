"""Makes a study with one case of each fault and every kind of sound case, by hand, from small NIfTI files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

SHAPE = (12, 11, 10)
AFFINE = np.diag([0.7, 0.7, 5.0, 1.0])

#: What the line of each faulty case says.
FAULTS = {
    "nan": "4 voxels are NaN or infinite",
    "four-d": "shape (12, 11, 10, 2) is not three-dimensional",
    "colour": "voxels have several channels",
    "empty": "the file is empty",
    "no-slices": "shape (12, 11, 0) has no slices",
    "sheared": "the affine is sheared",
    "singular": "the affine is singular",
    "half-label": "2 label voxels are not whole numbers (such as 1.5)",
    "other-label": "label 3, 14 is not on card hippocampus (0-2)",
    "cut": "the file is cut short",
    "flipped-bit": "damaged",
    "promise": "the header promises (32000, 32000, 32000) voxels",
    "other-shape": "its shape is (12, 11, 9), not (12, 11, 10)",
    "other-place": "it is up to 1.5 mm away",
    "gone": "no such file",
    "unlabelled": "no label, but it is in training",
    "other-organ": "annotated names liver, not on card hippocampus",
    "leak": "in test, but sound of the same patient is in training",
    "twin": "nearly the same volume",
    "same": "the same voxels as sound of another patient",
    "nobody": "patient is None",
}
SOUND = ("sound", "one-slice", "spacing", "oblique", "flipped", "near-whole", "scaled-label", "plain", "partial")


def voxels(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return smooth noise: no two seeds are alike."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return (1500 + 4000 * gaussian_filter(noise, 2, axes=(0, 1, 2))).astype(np.int16)


def labels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return an organ of 8 voxels and one of 4."""
    label = np.zeros(shape, np.uint8)
    label[2:6, 2:4, 0], label[7:9, 2:4, 0] = 1, 2
    return label


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Write NIfTI."""
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def save_raw(path: Path, array: np.ndarray, changes: dict[int, bytes], affine: np.ndarray = AFFINE) -> Path:
    """Write NIfTI with bytes of its header replaced, since nibabel will not write some faults."""
    raw = bytearray(nib.Nifti1Image(array, affine).to_bytes())
    for at, content in changes.items():
        raw[at : at + len(content)] = content
    path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
    return path


def sform(affine: np.ndarray) -> dict[int, bytes]:
    """Return the header's bytes of an affine, whatever it is."""
    return {252: np.array([0, 2], "<i2").tobytes(), 280: affine[:3].astype("<f4").tobytes()}


def write_faulty_study(folder: Path) -> Path:
    """Write `FAULTS` and `SOUND`, each in files of its own, and one case whose qform is unlike its sform."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = {name: _case(folder, name, seed) for seed, name in enumerate((*FAULTS, *SOUND, "two-forms"), start=1)}
    del cases["nobody"]
    _spoil_images(folder)
    _spoil_labels(folder)
    _vary(folder)
    for name in ("unlabelled", "leak", "twin", "same"):
        del cases[name]["label"]
    cases["other-organ"]["annotated"] = ["anterior", "liver"]
    cases["partial"]["annotated"] = ["anterior"]
    cases["plain"]["image"] = "plain-image.nii"
    cases["scaled-label"]["label"] = "scaled-label.nii"
    cases["leak"]["patient"] = "patient-sound"
    (folder / "gone-image.nii.gz").unlink()
    test = [cases.pop(name) for name in ("leak", "twin", "same")]
    training = [*cases.values(), {"case": "nobody", "image": "nobody.nii.gz", "label": "nobody.nii.gz"}]
    path = folder / "datalist.json"
    path.write_text(json.dumps({"card": "hippocampus", "training": training, "test": test}))
    return path


def _case(folder: Path, name: str, seed: int) -> dict[str, Any]:
    save(folder / f"{name}-image.nii.gz", voxels(seed))
    save(folder / f"{name}-label.nii.gz", labels())
    files = {kind: f"{name}-{kind}.nii.gz" for kind in ("image", "label")}
    return {"case": name, "patient": f"patient-{name}", **files}


def _spoil_images(folder: Path) -> None:
    def image(name: str) -> Path:
        return folder / f"{name}-image.nii.gz"

    holes = voxels(90).astype(np.float32)
    holes[0, 0, :4] = np.nan, np.inf, -np.inf, np.nan
    save(image("nan"), holes)
    save(image("four-d"), voxels(91, (*SHAPE, 2)))
    save(image("colour"), np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))
    image("empty").write_bytes(b"")
    save(image("no-slices"), voxels(92, (12, 11, 0)))
    sheared, singular = AFFINE.copy(), AFFINE.copy()
    sheared[0, 2], singular[0, 0] = 0.5, 0
    save_raw(image("sheared"), voxels(93), sform(sheared))
    save_raw(image("singular"), voxels(94), sform(singular))
    image("cut").write_bytes(image("cut").read_bytes()[:-40])
    content = bytearray(gzip.compress(gzip.decompress(image("flipped-bit").read_bytes()), compresslevel=0))
    content[-500] ^= 1  # of a voxel, stored as it is: nibabel would read it silently
    image("flipped-bit").write_bytes(bytes(content))
    save_raw(image("promise"), voxels(95), {40: np.array([3, 32000, 32000, 32000], "<i2").tobytes()})
    sound = nib.load(image("sound")).get_fdata()
    save(image("same"), sound.astype(np.int16))
    noise = np.random.default_rng(0).normal(0, 20, SHAPE)
    save(image("twin"), (0.5 * sound + 100 + noise)[:, :, 1:].astype(np.float32))
    forms = nib.Nifti1Image(voxels(96), AFFINE)
    forms.set_sform(AFFINE, code=2)
    forms.set_qform(AFFINE + 9 * np.outer([1, 0, 0, 0], [0, 0, 0, 1]), code=1)
    nib.save(forms, image("two-forms"))


def _spoil_labels(folder: Path) -> None:
    half, other, moved = labels().astype(np.float32), labels(), AFFINE.copy()
    half[0, 0, :2], other[0, 0, :2], moved[1, 3] = 1.5, (3, 14), 1.5
    save(folder / "half-label-label.nii.gz", half)
    save(folder / "other-label-label.nii.gz", other)
    save(folder / "other-shape-label.nii.gz", labels((12, 11, 9)))
    save(folder / "other-place-label.nii.gz", labels(), moved)


def _vary(folder: Path) -> None:
    """Make the sound cases that are easily taken for faulty."""
    turn = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
    oblique = AFFINE.copy()
    oblique[:3, :3] = turn @ AFFINE[:3, :3]
    affines = {"oblique": oblique, "flipped": AFFINE @ np.diag([-1, -1, 1, 1]), "spacing": np.diag([0.7, 1.75, 2, 1])}
    for seed, (name, affine) in enumerate(affines.items(), start=50):
        save(folder / f"{name}-image.nii.gz", voxels(seed), affine)
        save(folder / f"{name}-label.nii.gz", labels(), affine)
    save(folder / "one-slice-image.nii.gz", voxels(60, (12, 11, 1)))
    save(folder / "one-slice-label.nii.gz", labels((12, 11, 1)))
    save(folder / "plain-image.nii", voxels(61))
    save(folder / "near-whole-label.nii.gz", labels() * np.float32(1.0004))
    slope = {112: np.array([0.5, 0], "<f4").tobytes()}
    save_raw(folder / "scaled-label.nii", 2 * labels(), slope)
    for name in ("partial", "other-organ"):
        save(folder / f"{name}-label.nii.gz", np.where(labels() == 1, 1, 0).astype(np.uint8))
