"""What is damaged, and the commands that then meet it: a function a kind, each making one trial in a folder.

A trial is a command line of `ragsam`, and where voxels are read a judge: it reads the same file by nibabel, SimpleITK
or pydicom, and says what differs if our reader accepts it.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzz_mutations import NUMBERS, TEXTS, damaged_bytes, damaged_json, json_text, odd_value
from small_dicom import write_series

from ragsam.data.checks.check_case import scan_volume
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.io.read_volume import open_volume
from ragsam.runs.options import OPTIONS

SUFFIXES = (".nii.gz", ".nii.GZ", ".NII.GZ")
MM_OF_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
Judge = Callable[[], str | None]


@dataclass(frozen=True)
class Stock:
    """What is damaged: a datalist, a run trained on it, its label volumes and their evaluation."""

    study: Path
    run: Path
    segmented: Path
    evaluated: Path

    @property
    def image(self) -> Path:
        """The image of a test case."""
        return load_datalist(self.study).section("test")[0].image

    @property
    def label(self) -> Path:
        """The label of a test case."""
        return load_datalist(self.study).section("test")[0].label


@dataclass(frozen=True)
class Trial:
    """A command, and what compares an accepted input with other readers."""

    command: list[str]
    judge: Judge | None = None


def one_case(folder: Path, image: Path, label: Path | None = None) -> list[str]:
    """Return the command that checks one case."""
    case = {"case": "c1", "patient": "p1", "image": str(image)} | ({"label": str(label)} if label else {})
    lists = {"card": "hippocampus", "training": [], "validation": [], "test": [case]}
    (folder / "data.json").write_text(json.dumps(lists))
    return ["check", str(folder / "data.json"), "--jobs", "1"]


def segmenting(stock: Stock, folder: Path, run: Path | None = None, *more: str) -> list[str]:
    """Return the command that segments an image of the study."""
    return ["segment", str(run or stock.run), str(stock.image), "--output", str(folder / "out"), *more]


def linked_run(stock: Stock, folder: Path) -> Path:
    """Return a run of hard links, whose files may be replaced."""
    return Path(shutil.copytree(stock.run, folder / "run", copy_function=os.link))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file again: what it was linked to stays."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def nifti_bytes(path: Path) -> bytes:
    """Return a packed NIfTI's bytes."""
    return gzip.decompress(path.read_bytes())


def nifti_header(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage a NIfTI header, as an image, as a label, or one that is segmented."""
    as_label = draw.random() < 0.3
    data = damaged_bytes(draw, nifti_bytes(stock.label if as_label else stock.image), 0, 352)
    packed = draw.random() < 0.5
    path = folder / ("volume" + (draw.choice(SUFFIXES) if packed else draw.choice((".nii", ".NII"))))
    path.write_bytes(gzip.compress(data) if packed else data)
    judge = volume_judge(path, data)
    if as_label:
        return Trial(one_case(folder, stock.image, path), judge)
    if draw.random() < 0.1:
        command = ["segment", str(stock.run), str(path), "--output", str(folder / "out"), "--no-retrieval"]
        return Trial(command, lambda: judge() or output_judge(path, folder / "out"))
    return Trial(one_case(folder, path), judge)


def gzip_stream(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage the packed stream of a NIfTI."""
    packed = damaged_bytes(draw, gzip.compress(nifti_bytes(stock.image), draw.choice((1, 6))))
    path = folder / f"volume{draw.choice(SUFFIXES)}"
    path.write_bytes(packed)
    try:
        data = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error, struct.error):
        data = None
    return Trial(one_case(folder, path), volume_judge(path, data))


def volume_judge(path: Path, data: bytes | None) -> Judge:
    """Compare our reading of a NIfTI with nibabel's of its unpacked bytes; None are bytes that do not unpack."""

    def judge() -> str | None:
        try:
            ours, _ = scan_volume(path, "case", keep=True)
        except InputError:
            return None
        if data is None:
            return "a damaged stream is accepted"
        theirs = nibabel.Nifti1Image.from_bytes(data)
        voxels = np.asarray(theirs.dataobj).reshape(ours.shape)
        if not np.array_equal(np.asarray(ours.dataobj), voxels, equal_nan=True):
            return "voxels differ from nibabel's"
        scale = np.diag([*[MM_OF_UNIT[int(theirs.header["xyzt_units"]) & 7]] * 3, 1])
        if not np.allclose(ours.affine, scale @ theirs.affine, rtol=1e-5, atol=1e-5):
            return "geometry differs from nibabel's"
        return None

    return judge


def output_judge(path: Path, folder: Path) -> str | None:
    """Compare where nibabel and ITK place a written label volume with where they place its image."""
    written = list(folder.glob("*.nii.gz"))
    if not written:
        return None
    image, label = nibabel.load(path), nibabel.load(written[0])
    if not np.allclose(image.affine, label.affine, rtol=1e-5, atol=1e-5, equal_nan=True):
        return "the label lies elsewhere by nibabel"
    import SimpleITK

    places = []
    for volume in (path, written[0]):
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(volume))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return None  # ITK refuses the image's own geometry
        places.append([*reader.GetSpacing()[:3], *reader.GetOrigin()[:3], *reader.GetDirection()[:9]])
    return None if np.allclose(*places, rtol=1e-4, atol=1e-4) else "the label lies elsewhere by ITK"


def dicom_tags(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage tags or bytes of one slice, or of all slices, of a series."""
    rng = np.random.default_rng(draw.randrange(2**32))
    volume = rng.integers(0, 4000, (12, 10, 6)).astype(np.int16)
    series = folder / "series"
    files = write_series(series, volume, spacing_mm=(0.8, 0.9, 3.0), RescaleIntercept=-1024, RescaleSlope=1)
    damaged = files if draw.random() < 0.3 else [draw.choice(files)]
    if draw.random() < 0.5:
        edit = draw_edit(draw)
        for path in damaged:
            edit_tag(path, *edit)
    else:
        path = damaged[0]
        path.write_bytes(damaged_bytes(draw, path.read_bytes(), 132))
    return Trial(one_case(folder, series), lambda: series_judge(series, len(files)))


TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")
TAGS += ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "RescaleIntercept")
TAGS += ("RescaleSlope", "PhotometricInterpretation", "Modality", "SeriesInstanceUID", "SOPClassUID", "NumberOfFrames")
TAGS += ("SpecificCharacterSet", "PixelData", "InstanceNumber", "SOPInstanceUID")
TAG_VALUES = (
    *NUMBERS,
    *TEXTS,
    "nan",
    "inf",
    "1\\2",
    "0\\0\\0",
    "1\\0\\0\\1\\0\\0",
    "MONOCHROME1",
    "RGB",
    b"",
    b"\0" * 3,
)


def draw_edit(draw: random.Random) -> tuple[str, object]:
    """Draw a tag and its value; None removes it."""
    return draw.choice(TAGS), draw.choice((None, *TAG_VALUES))


def edit_tag(path: Path, tag: str, value: object) -> None:
    """Set or remove a tag of a file, where pydicom writes such a value at all."""
    data = pydicom.dcmread(path)
    kept = path.read_bytes()
    try:
        if value is None:
            delattr(data, tag)
        else:
            data[tag]._value = value
        data.save_as(path)
    except Exception:  # pydicom has many exceptions for values that it does not write
        path.write_bytes(kept)


def series_judge(series: Path, slices: int) -> str | None:
    """Compare our reading of a series with pydicom's, slice by slice along their normal."""
    try:
        ours = open_volume(series, "case")
        voxels = np.asarray(ours.dataobj)
    except InputError:
        return None
    if ours.shape[2] != slices:
        return f"{ours.shape[2]} of {slices} slices are read"
    try:
        read = [pydicom.dcmread(path, force=True) for path in sorted(series.iterdir())]
        row, column = np.split(np.array(read[0].ImageOrientationPatient, float), 2)
        normal = np.cross(row, column)
        read.sort(key=lambda data: float(normal @ np.array(data.ImagePositionPatient, float)))
        theirs = np.stack([hounsfield(data).T for data in read], -1)
    except Exception as error:  # pydicom has many exceptions
        return f"accepted, but pydicom fails ({type(error).__name__})"
    if not np.allclose(voxels, theirs):
        return "voxels differ from pydicom's"
    origin = np.array(read[0].ImagePositionPatient, float) * (-1, -1, 1)
    return None if np.allclose(ours.affine[:3, 3], origin, atol=1e-3) else "geometry differs from pydicom's"


def hounsfield(data: pydicom.Dataset) -> np.ndarray:
    """Return a slice's pixels [row, column] in its units."""
    pixels = data.pixel_array.astype(float)
    if data.PhotometricInterpretation == "MONOCHROME1" and data.Modality not in ("CT", "PT"):
        low = -(2 ** (data.BitsStored - 1)) if data.PixelRepresentation else 0
        pixels = 2 * low + 2**data.BitsStored - 1 - pixels
    return pixels * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))


def datalists(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage a datalist."""
    tree = json.loads(stock.study.read_text())
    for section in ("training", "validation", "test"):
        for case in tree[section]:
            for kind in ("image", "label"):
                case[kind] = str(stock.study.parent / case[kind])
    (folder / "data.json").write_bytes(damaged_json(draw, tree))
    return Trial(["check", str(folder / "data.json"), "--jobs", "1"])


def cards(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage a card."""
    text = (stock.run / "configs" / "card.yaml").read_text()
    tree = yaml.safe_load(text)
    data = damaged_bytes(draw, text.encode()) if draw.random() < 0.3 else damaged_json(draw, tree)
    (folder / "card.yaml").write_bytes(data)
    if draw.random() < 0.5:
        return Trial(["cards", str(folder / "card.yaml")])
    return Trial([*one_case(folder, stock.image, stock.label), "--card", str(folder / "card.yaml")])


def prompts(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage a file of prompts."""
    name = stock.image.name.removesuffix(".nii.gz")
    point = {"i": 10, "j": 12, "k": 3, "inside": True}
    organ = {"organ": "anterior", "points": [point], "box": {"i": [4, 20], "j": [5, 22], "k": [3, 3]}}
    thing = {"object": "cyst", "points": [point], "propagate": False}
    (folder / "prompts.json").write_bytes(damaged_json(draw, {name: [organ, thing]}))
    more = ("--no-retrieval", "--prompts", str(folder / "prompts.json"))
    return Trial(segmenting(stock, folder, None, *more))


def metrics(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage a metrics.json that is compared."""
    other = folder / "ev"
    other.mkdir()
    (other / "metrics.json").write_bytes(damaged_json(draw, json.loads((stock.evaluated / "metrics.json").read_text())))
    return Trial(["compare", str(stock.evaluated), str(other), "--output", str(folder / "out")])


def retrieval(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage a retrieval.json beside predictions."""
    shutil.copytree(stock.segmented, folder / "seg", copy_function=os.link)
    tree = json.loads((stock.segmented / "retrieval.json").read_text())
    replace_file(folder / "seg" / "retrieval.json", damaged_json(draw, tree))
    evaluate = ["evaluate", "--reference", str(stock.study), "--prediction", str(folder / "seg"), "--jobs", "1"]
    return Trial([*evaluate, "--bank", str(stock.run / "bank"), "--output", str(folder / "out")])


def manifests(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage a file of a bank, mostly its manifest."""
    run = linked_run(stock, folder)
    manifest = run / "bank" / "manifest.json"
    if draw.random() < 0.8:
        replace_file(manifest, damaged_json(draw, json.loads(manifest.read_text())))
    else:
        path = draw.choice([path for path in sorted(manifest.parent.iterdir()) if path.stat().st_size])
        replace_file(path, damaged_bytes(draw, path.read_bytes()))
    if draw.random() < 0.3:
        return Trial(["index", str(run), "--remove", "patient-bert"])
    return Trial(segmenting(stock, folder, run))


def configs(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage a config or the metadata of a run."""
    run = linked_run(stock, folder)
    path = run / "configs" / draw.choice(("inference.yaml", "inference.yaml", "metadata.json", "train.yaml"))
    tree = yaml.safe_load(path.read_text())
    data = damaged_bytes(draw, path.read_bytes()) if draw.random() < 0.3 else damaged_json(draw, tree)
    replace_file(path, data)
    if draw.random() < 0.3:
        return Trial(["describe", str(run)])
    return Trial(segmenting(stock, folder, run, "--no-retrieval"))


def options(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Set an option to something odd."""
    name = draw.choice(sorted(OPTIONS))
    value = json_text(odd_value(draw, draw.choice((1, 0.5, [4.0, 4.0], True, "a", None)), raw=True))
    if draw.random() < 0.2:
        return Trial(segmenting(stock, folder, None, "--no-retrieval", "--set", f"{name}={value}"))
    if draw.random() < 0.5:
        return Trial(["describe", "sam_lora", "--card", "hippocampus", "--set", f"{name}={value}"])
    small = [f"--set={one}" for one in ("epochs=1", "steps_per_epoch=1", "image_size=32", "batch_size=2")]
    train = ["train", "sam_lora", "--data", str(stock.study), "--output", str(folder / "out"), *small]
    return Trial([*train, "--set", f"{name}={value}"])


def safetensors(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage weights, mostly their header."""
    run = linked_run(stock, folder)
    weights = run / "models" / "model.safetensors"
    data = weights.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    if draw.random() < 0.6:
        header = damaged_json(draw, json.loads(data[8 : 8 + size]))
        data = struct.pack("<Q", len(header)) + header + data[8 + size :]
    else:
        data = damaged_bytes(draw, data, 0, draw.choice((8, 8 + size, len(data))))
    replace_file(weights, data)
    return Trial(segmenting(stock, folder, run, "--no-retrieval"))


def provenance(draw: random.Random, stock: Stock, folder: Path) -> Trial:
    """Damage the JSON files beside label volumes, and segment into their folder again."""
    out = Path(shutil.copytree(stock.segmented, folder / "out", copy_function=os.link))
    beside = draw.choice(sorted(path for path in out.rglob("*.json") if path.name != "retrieval.json"))
    replace_file(beside, damaged_json(draw, json.loads(beside.read_text())))
    return Trial(segmenting(stock, folder, None, "--no-retrieval"))


#: Each kind, and its share of the inputs.
KINDS: dict[str, tuple[Callable[[random.Random, Stock, Path], Trial], int]] = {
    "NIfTI headers": (nifti_header, 20),
    "gzip streams": (gzip_stream, 10),
    "DICOM": (dicom_tags, 14),
    "datalists": (datalists, 7),
    "cards": (cards, 8),
    "prompts": (prompts, 6),
    "metrics.json": (metrics, 6),
    "retrieval.json": (retrieval, 4),
    "bank files": (manifests, 7),
    "configs": (configs, 7),
    "option values": (options, 7),
    "weights": (safetensors, 3),
    "provenance": (provenance, 1),
}
