"""The official layouts of raw data sets: which one a folder has, and its cases. No voxel is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ragsam.data.cards.model import Card
from ragsam.data.preparation.dataset_json import check_dataset_json, listed_pairs
from ragsam.data.preparation.files import Pair, folders_below, pair_scattered, pair_up, volumes_in
from ragsam.data.preparation.tables import MANIFEST, Rows, is_manifest, read_manifest
from ragsam.errors import InputError

_BTCV = "img0001.nii.gz with label0001.nii.gz"
_FLARE = "images/CASE_0000.nii.gz with labels/CASE.nii.gz"
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_FIXED_FOLDERS = ("imagesTr", "imagesTs", "labelsTr", "labelsTs")


@dataclass(frozen=True)
class Found:
    """What a folder holds: its cases, how many images without label were left out, its manifest's rows by case."""

    pairs: tuple[Pair, ...]
    left_out: int = 0
    rows: Rows | None = None


@dataclass(frozen=True)
class _Layout:
    look: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], Found]


def detect_layout(source: Path, card: Card) -> str:
    """Return a folder's layout; raises InputError where none or several fit, or one that the card does not expect."""
    if not source.is_dir():
        raise InputError(f"{source.name}: no such folder; check the path")
    fitting = [name for name, layout in _LAYOUTS.items() if layout.fits(source)]
    expected = card.layouts or tuple(_LAYOUTS)
    chosen = list(filter(expected.__contains__, fitting))
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise InputError(f"{source.name}: fits the layouts {' and '.join(chosen)}; choose one with --layout")
    if fitting:
        raise InputError(
            f"{source.name}: has layout {fitting[0]}, card {card.name} expects {' or '.join(expected)}; where its "
            f"labels have the card's raw values (ragsam cards {card.name}), give --layout {fitting[0]}"
        )
    if len(expected) == 1:
        return expected[0]  # its reader reports what is missing
    looks = "; ".join(f"{name}: {_LAYOUTS[name].look}" for name in expected)
    raise InputError(f"{source.name}: no known layout; give the folder that holds one of these ({looks})")


def read_layout(source: Path, layout: str, card: Card) -> Found:
    """Return the cases of a folder; where it has a `dataset.json`, its labels must not contradict the card.

    Raises:
        InputError: missing folders, images without label or the reverse, several channels, and the like.
    """
    if not source.is_dir():
        raise InputError(f"{source.name}: no such folder; check the path")
    if layout in ("decathlon", "nnunet"):
        check_dataset_json(source, card)
    return _LAYOUTS[layout].read(source)


def _first_channel(name: str) -> str | None:
    """Return the case of an image that ends in _0000."""
    match = _CHANNEL.fullmatch(name)
    return match.group(1) if match and match.group(2) == "0000" else None


def _btcv_case(name: str, kind: str) -> str | None:
    """Return the case of a BTCV image or label; `kind` is `img` or `label`."""
    match = re.fullmatch(kind + r"(\d+)", name)
    return f"img{match.group(1)}" if match else None


_btcv_image = partial(_btcv_case, kind="img")
_btcv_label = partial(_btcv_case, kind="label")


def _read_decathlon(source: Path) -> Found:
    images = volumes_in(source / "imagesTr")
    labels = volumes_in(source / "labelsTr")
    pairs = listed_pairs(source) or pair_up(images, labels, source.name)
    return Found(tuple(pairs))


def _read_nnunet(source: Path) -> Found:
    folder = source / "imagesTr"
    for name in volumes_in(folder):
        match = _CHANNEL.fullmatch(name)
        if match is None:
            raise InputError(f"{name}: an image of nnU-Net ends in _0000; rename it, or give another --layout")
        if match.group(2) != "0000":
            raise InputError(f"{match.group(1)}: several channels ({name}); volumes of one channel are read only")
    images = volumes_in(folder, _first_channel)
    labels = volumes_in(source / "labelsTr")
    return Found(tuple(pair_up(images, labels, source.name)))


def _read_plain(source: Path) -> Found:
    images = volumes_in(source / "images", dicom=True)
    labels = volumes_in(source / "labels")
    return Found(tuple(pair_up(images, labels, source.name)))


def _read_manifest(source: Path) -> Found:
    rows = read_manifest(source)
    pairs = _read_plain(source).pairs
    cases = {pair.case for pair in pairs}
    lost = sorted(cases ^ rows.keys())
    if lost:
        fault = f"not in {MANIFEST}" if lost[0] in cases else f"in {MANIFEST}, but without volumes"
        raise InputError(f"{lost[0]}: {fault}; mend the table or the folder")
    return Found(pairs, rows=rows)


def _read_btcv(source: Path) -> Found:
    folders = list(folders_below(source))
    images = [volumes_in(folder, _btcv_image) for folder in folders]
    labels = [volumes_in(folder, _btcv_label) for folder in folders]
    pairs, left_out = pair_scattered(images, labels, source.name, look=_BTCV)
    return Found(tuple(pairs), left_out)


def _read_flare(source: Path) -> Found:
    images, labels = [], []
    for folder in folders_below(source):
        if folder.name in _FIXED_FOLDERS:
            continue
        volumes = volumes_in(folder)
        if all(map(_first_channel, volumes)):
            images.append(volumes_in(folder, _first_channel))
        else:
            labels.append(volumes)
    pairs, left_out = pair_scattered(images, labels, source.name, look=_FLARE)
    return Found(tuple(pairs), left_out)


def _names(folder: Path, *, dicom: bool = False) -> set[str]:
    """Return the names of a folder's volumes; none where it cannot be read as one."""
    try:
        return set(volumes_in(folder, dicom=dicom))
    except InputError:
        return set()


def _fits_btcv(source: Path) -> bool:
    names = set().union(*map(_names, folders_below(source)))
    images = set(filter(None, map(_btcv_image, names)))
    return not images.isdisjoint(map(_btcv_label, names))


def _fits_flare(source: Path) -> bool:
    images: set[str] = set()
    labels: set[str] = set()
    for folder in folders_below(source):
        if folder.name in _FIXED_FOLDERS:
            continue
        names = _names(folder)
        if all(map(_first_channel, names)):
            images |= names
        else:
            labels |= names
    return not labels.isdisjoint(map(_first_channel, images))


def _fits_nnunet(source: Path) -> bool:
    images = map(_first_channel, _names(source / "imagesTr"))
    return not _names(source / "labelsTr").isdisjoint(images)


def _fits_decathlon(source: Path) -> bool:
    images = _names(source / "imagesTr")
    return not images.isdisjoint(_names(source / "labelsTr"))


def _fits_plain(source: Path) -> bool:
    images = _names(source / "images", dicom=True)
    return not is_manifest(source) and not images.isdisjoint(_names(source / "labels"))


_LAYOUTS = {
    "btcv": _Layout(_BTCV, _fits_btcv, _read_btcv),
    "flare22": _Layout(_FLARE, _fits_flare, _read_flare),
    "decathlon": _Layout("imagesTr/CASE.nii.gz with labelsTr/CASE.nii.gz", _fits_decathlon, _read_decathlon),
    "nnunet": _Layout("imagesTr/CASE_0000.nii.gz with labelsTr/CASE.nii.gz", _fits_nnunet, _read_nnunet),
    "manifest": _Layout("images/CASE.nii.gz with labels/CASE.nii.gz and manifest.csv", is_manifest, _read_manifest),
    "plain": _Layout("images/CASE.nii.gz with labels/CASE.nii.gz", _fits_plain, _read_plain),
}
