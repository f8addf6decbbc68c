"""The manifest of a bank: which files belong to it, and whether they are whole; and the lock of its writers."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ragsam.errors import InputError
from ragsam.files import sha256_file, write_json_atomic
from ragsam.io.documents import check_schema, read_json
from ragsam.retrieval.bank_arrays import PartedArray, open_array
from ragsam.retrieval.bank_rows import ARRAYS, OPTIONAL, SLOW, Rows, joined, rows_of_table
from ragsam.retrieval.novelty import bank_scores
from ragsam.transforms.layout import DEFAULT_LAYOUT

#: 4 since pseudonyms are slow hashes, which a version of before would not find; it is read as 3 is.
FORMAT_VERSION = 4
_FAST = 3
MANIFEST = "manifest.json"
DRAFT = "draft.jsonl"
LOCK = ".lock"
REMAKE = "make it again with `ragsam index`"
_COUNT = {"type": "integer", "minimum": 0}
#: Of what a bank is made for. Some of it goes into a config, where `$`, `@` and `%` would begin an expression.
_PLAIN = {
    "type": ["string", "number", "boolean", "null", "array"],
    "pattern": r"^(?!\s*[$@%])",
    "items": {"type": ["string", "number"], "pattern": r"^(?!\s*[$@%])"},
    "description": "a text without $, @ or % before it, a number, true, false, null or a list of such",
}
_DICE = {"type": "array", "items": {"type": ["number", "null"]}}
_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
_ENTRY = {
    "type": "object",
    "required": ["name", "sha256"],
    "properties": {"name": {"type": "string"}, "sha256": {"type": "string"}},
}
_PART = {
    "type": "object",
    "required": ["slices", "files"],
    "properties": {
        "slices": {"type": "integer", "minimum": 1},
        "files": {
            "type": "object",
            "required": ["descriptors", "labels", "slices"],
            "additionalProperties": False,
            "properties": dict.fromkeys((*ARRAYS, "embeddings", "slices"), _ENTRY),
        },
    },
}
_SCHEMA = {
    "type": "object",
    "required": ["slices", "patients", "fit", "keeps", "salt", "parts"],
    "properties": {
        "slices": _COUNT,
        "patients": _COUNT,
        "cases": _COUNT,
        "fit": {"type": "object", "additionalProperties": _PLAIN},
        "keeps": {"type": "array", "items": {"type": "string"}},
        "salt": {"type": "string", "pattern": f"^({SLOW}([1-9]|1[0-6]):)?[^:]*$"},
        "scores": _NUMBERS,
        "agreement": {
            "type": "object",
            "properties": {"dice": _DICE, "chance": _DICE, "patients": _COUNT, "doubtful": _NUMBERS},
        },
        "stamps": {"type": "object", "additionalProperties": {"type": "string"}},
        "removed": {"type": "array", "items": {"type": "string"}},
        "parts": {"type": "array", "minItems": 1, "items": _PART},
    },
}
_FILE = re.compile(r"(descriptors|labels|images|embeddings|slices)-[0-9a-f]{12}\.(npy|csv)")


def has_bank(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a bank, or what is left of one; False where there is nothing of a bank's."""
    folder = Path(folder)
    return folder.is_dir() and any(_FILE.fullmatch(path.name) or path.name == MANIFEST for path in folder.iterdir())


def read_manifest(folder: Path, fit: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a bank's manifest; the files that it names are not looked at, see `read_rows`.

    Embeddings, which banks of earlier versions may keep, are passed over.

    Args:
        fit: what the bank must have been made for; None takes any.

    Raises:
        InputError: none, a damaged one, or one made for something else.
    """
    if not (folder / MANIFEST).is_file():
        raise InputError(f"bank {folder.name}: no manifest.json in it; make a bank with `ragsam index`")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") not in (_FAST, FORMAT_VERSION):
        raise InputError(f"bank {folder.name}: not a bank of format {FORMAT_VERSION}; {REMAKE}")
    if manifest.pop("sha256", None) != digest(manifest):
        raise InputError(f"bank {folder.name}: its manifest is damaged; {REMAKE}")
    check_schema(manifest, _SCHEMA, f"bank {folder.name}: {MANIFEST}")
    for name, want in (fit or {}).items():
        have = {"slice_layout": DEFAULT_LAYOUT, **manifest["fit"]}.get(name)
        if have != want:
            raise InputError(f"bank {folder.name}: made for a different {name} ({have}, not {want}); {REMAKE}")
    manifest.setdefault("stamps", {})  # of an older version
    manifest["keeps"] = [name for name in manifest["keeps"] if name in OPTIONAL]
    for part in manifest["parts"]:
        part["files"].pop("embeddings", None)
    return manifest


def require_own(folder: Path) -> None:
    """Refuse a folder where a bank would replace a file of another program's, called as one of its own.

    A bank's own manifest or draft, of whatever version, says what the bank fits, or is beside the bank's files.
    """
    if not folder.is_dir() or any(_FILE.fullmatch(path.name) for path in folder.iterdir()):
        return
    for path in (folder / MANIFEST, folder / DRAFT):
        if path.is_file() and b'"fit"' not in path.read_bytes():
            raise InputError(f"bank {folder.name}: its {path.name} is not a bank's; choose another --output")


def digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content: a wrong salt, above all, would let own patients through."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Replace a bank's manifest, by which its parts become the bank, and remove what it does not name."""
    write_json_atomic(folder / MANIFEST, {**manifest, "sha256": digest(manifest)})
    remove_unnamed(folder, manifest)


def remove_unnamed(folder: Path, manifest: Mapping[str, Any] | None, draft: str | None = None) -> None:
    """Remove files of earlier banks and given-up drafts; keep the manifest's, and the draft of that name."""
    parts = manifest["parts"] if manifest else []
    named = {entry["name"] for part in parts for entry in part["files"].values()}
    for path in folder.iterdir():
        of_part = _FILE.fullmatch(path.name) and path.name not in named and not (draft and draft in path.name)
        if of_part or path.name.startswith(".tmp-"):
            path.unlink(missing_ok=True)
    if draft is None:
        (folder / DRAFT).unlink(missing_ok=True)


def read_rows(folder: Path, manifest: Mapping[str, Any]) -> Rows:
    """Open the parts of a bank as one, its labels and images memory-mapped.

    Sizes are compared before anything is allocated; then every file's SHA-256 must be the manifest's.

    Raises:
        InputError: a file that is missing or damaged.
    """
    files = []
    for part in manifest["parts"]:
        for stem, entry in part["files"].items():
            files.append((stem, entry, part["slices"]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        opened = list(pool.map(lambda file: _open_file(folder, *file), files))
    stems: dict[str, list[Any]] = defaultdict(list)
    for (stem, _, _), content in zip(files, opened, strict=True):
        stems[stem].append(content)
    rows = joined(stems.pop("slices"))
    for stem, parts in stems.items():
        rows[stem] = parts[0] if len(parts) == 1 else PartedArray(parts)
    rows["descriptors"] = np.array(rows["descriptors"])  # searched as a whole: in memory
    return rows


def _open_file(folder: Path, stem: str, entry: Mapping[str, str], count: int) -> Any:
    path = folder / entry["name"]
    try:
        if not _FILE.fullmatch(path.name) or path.parent != folder:
            raise ValueError("not a file of the bank's")
        array = None if stem == "slices" else open_array(path, count, *ARRAYS[stem])
        if sha256_file(path) != entry["sha256"]:
            raise ValueError("not as it was written")
        return _table(path, count) if array is None else array
    except (OSError, ValueError, IndexError, OverflowError, csv.Error) as error:
        raise InputError(f"bank {folder.name}: {stem} is missing or damaged; {REMAKE}") from error


def _table(path: Path, count: int) -> Rows:
    table = rows_of_table(path.read_text(encoding="utf-8"))
    if len(table["slices"]) != count:
        raise ValueError("not as many rows")
    return table


def part_names(part: str, keeps: Sequence[str]) -> dict[str, str]:
    """Return the names of a part's files, by what is in them."""
    stems = [name for name in ARRAYS if name not in OPTIONAL or name in keeps]
    return {stem: f"{stem}-{part}.npy" for stem in stems} | {"slices": f"slices-{part}.csv"}


def part_entry(folder: Path, names: Mapping[str, str], count: int) -> dict[str, Any]:
    """Return a manifest's entry of a part whose files are finished."""
    files = {stem: {"name": name, "sha256": sha256_file(folder / name)} for stem, name in names.items()}
    return {"slices": count, "files": files}


def manifest_of(
    folder: Path,
    fit: Mapping[str, Any],
    keeps: Sequence[str],
    salt: str,
    parts: list[dict[str, Any]],
    stamps: Mapping[str, str],
) -> dict[str, Any]:
    """Return the manifest of a bank of these parts, with the scores of its volumes (see `bank_scores`).

    Args:
        stamps: by case, of the files that it was made of; those of other cases are passed over.
    """
    tables, vectors = [], []
    for part in parts:
        paths = {stem: folder / entry["name"] for stem, entry in part["files"].items()}
        tables.append(_table(paths["slices"], part["slices"]))
        vectors.append(open_array(paths["descriptors"], part["slices"], *ARRAYS["descriptors"]))
    rows, descriptors = joined(tables), np.concatenate(vectors)
    cases = np.unique(rows["cases"]).tolist()
    return {
        "format": FORMAT_VERSION if salt.startswith(SLOW) else _FAST,
        "slices": len(descriptors),
        "patients": len(np.unique(rows["patients"])),
        "cases": len(cases),
        "fit": dict(fit),
        "keeps": list(keeps),
        "salt": salt,
        "scores": bank_scores(descriptors, rows["patients"], rows["cases"], rows["slices"]),
        "stamps": {case: stamps[case] for case in cases if case in stamps},
        "parts": parts,
    }


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Keep other writers out of a bank's folder, which is made if absent. Readers need no lock.

    Raises:
        InputError: another process writes, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"bank {folder.name}: another process writes to it; wait until it is done") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error
    try:
        yield
    finally:
        if {path.name for path in folder.iterdir()} <= {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)  # while it is held, so that nobody holds a lock without a name
            with suppress(OSError):
                folder.rmdir()
        lock.release()
