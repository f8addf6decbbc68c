"""A run as one file to give away: what it needs to segment elsewhere, and no path, prediction or data list of its own.

Nothing of a config is run: it is read and written as text.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import yaml

from ragsam.errors import InputError
from ragsam.files import atomic_write, sha256_file
from ragsam.networks.bases import base_file
from ragsam.networks.checkpoints import load_metadata
from ragsam.outputs import Outputs
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.bank_manifest import read_manifest
from ragsam.runs.config_reader import checked_text
from ragsam.runs.config_safety import leading_out
from ragsam.runs.run import WEIGHTS, RunFolder
from ragsam.runs.settings import is_made_by_monai, set_options

BASE_FOLDER = "base"
#: What a run has, by its names in a packed one: no other file goes in, and none comes out.
_NAMES = re.compile(
    r"LICENSE|log\.csv|models/model\.(safetensors|pt)|docs/[^/.][^/]*\.(md|txt|png|jpg)"
    r"|configs/((train|inference|evaluate|multi_gpu_train|multi_gpu_evaluate|card)\.yaml|metadata\.json|logging\.conf)"
    r"|bank/(manifest\.json|(descriptors|labels|images|embeddings|slices)-[0-9a-f]{12}\.(npy|csv))"
    rf"|{BASE_FOLDER}/(?!.*\.(pyc?|pyd|so)$)[^/.][^/]*"
)
#: What a config says of the machine that trained, and what stands for it elsewhere: the templates' own values.
_ELSEWHERE = {"datalist": "$@dataset_dir + '/datalist.json'", "dataset_dir": ".", "start": None, "baseline": None}
_ELSEWHERE |= {"ensemble": [], "pseudo_labels": None}
#: Tensors do not shrink.
_STORED = (".safetensors", ".pt", ".pth")
_OLDEST = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Packed:
    """What is in a packed run.

    Attributes:
        files: how many.
        size: bytes once unpacked.
        bank: whether the bank is among them.
        base: name of the base weights that the run needs; None if it needs none.
        base_sha256: of them.
        with_base: whether they are among the files.
        left_out: configs and documents that are no part of a run.
        code: in a run that was unpacked, what its configs run beyond what this package's do, a line each.
    """

    files: int
    size: int
    bank: bool
    base: str | None = None
    base_sha256: str | None = None
    with_base: bool = False
    left_out: tuple[str, ...] = ()
    code: tuple[str, ...] = ()


def is_run_file(name: str) -> bool:
    """Whether a run has a file of that name, relative to its folder."""
    return _NAMES.fullmatch(name) is not None


def pack_run(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bank: bool = True,
    with_base: bool = False,
    overwrite: bool = False,
) -> Packed:
    """Write a run as a zip, whole or not at all; the same run gives the same bytes.

    Configs, weights, model card, licence and log go in, with the bank if there is one; nothing else that is in the
    folder. Paths of the machine are taken out of the configs; of base weights their name is left.

    Args:
        run: a trained run.
        output: the `.zip`.
        bank: False leaves the bank out, which holds label maps of the training patients.
        with_base: put the base weights in too.
        overwrite: replace a file that is not the package's own, see `Outputs`.

    Raises:
        InputError: no trained run, a link in it, a damaged bank, a config with a path that has no meaning elsewhere,
            base weights that are missing or others than the run was trained on, or a file that cannot be written.
    """
    if Path(output).suffix != ".zip":
        raise InputError(f"--output {Path(output).name}: a packed run is a zip; give a name that ends in .zip")
    folder = RunFolder(run)
    root = folder.path
    base_sha256 = load_metadata(root / WEIGHTS).get("base_sha256")
    there = dict(_run_files(root))
    files: dict[str, Path | bytes] = {name: path for name, path in there.items() if is_run_file(name)}
    base = base_path(folder.text("inference"))
    for name in [name for name in files if name.endswith(".yaml") and name != "configs/card.yaml"]:
        files[name] = portable_config(checked_text(root / name), name).encode("utf-8")
    if bank and (root / "bank" / "manifest.json").is_file():
        files |= _bank_files(root)
    if with_base:
        file = _fitting(base, base_sha256)
        files[f"{BASE_FOLDER}/{base.name}"] = file
    reads = [content for content in files.values() if isinstance(content, Path)]
    with Outputs.of_file(output, reads=reads, overwrite=overwrite):
        _write_archive(Path(output), files)
    return Packed(
        files=len(files),
        size=sum(_size(content) for content in files.values()),
        bank="bank/manifest.json" in files,
        base=base.name if base else None,
        base_sha256=base_sha256,
        with_base=with_base,
        left_out=tuple(name for name in there if name not in files),
    )


def portable_config(text: str, name: str) -> str:
    """Return a config's text without the paths of the machine that it was written on.

    Raises:
        InputError: a path that is left: nothing elsewhere would be there.
    """
    config = yaml.safe_load(text)
    values = {key: value for key, value in _ELSEWHERE.items() if key in config and not is_made_by_monai(config[key])}
    if base := base_path(text):
        values["base"] = base.name
    text = set_options(text, values)
    for where, value in leading_out(yaml.safe_load(text)):
        raise InputError(f"{name}: {where} is {value}, which is nowhere else; put the file into the run, or reset it")
    return text


def base_path(text: str) -> Path | None:
    """Return the base weights that a config's text wants; None for none, or for an expression."""
    config = yaml.safe_load(text)
    base = config.get("base") if isinstance(config, Mapping) else None
    plain = isinstance(base, str) and not is_made_by_monai(base) and base.strip("./\\")
    return Path(base) if plain else None


def _run_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield what is in a run's own folders, bank and base weights apart, and what of it is packed from the top."""
    for pattern in ("LICENSE", "log.csv", "configs/*", "docs/*", "models/*"):
        for path in sorted(root.glob(pattern)):
            name = path.relative_to(root).as_posix()
            if path.name.startswith(".") or (pattern == "models/*" and not is_run_file(name)):
                continue
            if any(part.is_symlink() for part in (path, path.parent) if part != root):
                raise InputError(f"{root.name}/{name}: a link; put the file itself there")
            if path.is_file():
                yield name, path


def _bank_files(root: Path) -> dict[str, Path]:
    """Return the files of a run's bank, all of them whole."""
    folder = root / "bank"
    Bank.open(folder)
    parts = read_manifest(folder)["parts"]
    names = ["manifest.json", *(entry["name"] for part in parts for entry in part["files"].values())]
    return {f"bank/{name}": folder / name for name in names}


def _fitting(base: Path | None, sha256: str | None) -> Path:
    """Return the base weights, which must be the ones that the run was trained on."""
    if base is None or sha256 is None:
        raise InputError("--with-base: the run has no base weights; leave it out")
    file = base_file(base)
    if sha256_file(file) != sha256:
        raise InputError(f"{base.name}: not the base weights that the run was trained on; put those there")
    return file


def _write_archive(output: Path, files: Mapping[str, Path | bytes]) -> None:
    with atomic_write(output) as temporary, ZipFile(temporary, "w") as archive:
        for name, content in sorted(files.items()):
            entry = ZipInfo(name, _OLDEST)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # a plain file, as Unix has it
            entry.compress_type = ZIP_STORED if name.endswith(_STORED) else ZIP_DEFLATED
            entry.file_size = _size(content)
            with _opened(content) as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _opened(content: Path | bytes) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
