"""The support bank: labelled slices of many patients, with the descriptors by which they are found.

On disk a bank is a folder: `manifest.json` names the other files with their SHA-256, ends with its own, and is replaced
last, so that a killed writer leaves the old bank or the new one. Patients and cases appear under pseudonyms: a salted
hash of their key. That hides the key from a reader; it does not make a label map anonymous.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ragsam.errors import InputError
from ragsam.files import atomic_write, read_json, sha256_file, write_json_atomic

FORMAT_VERSION = 2
_COLUMNS = ("patient", "case", "slice", "annotated")
_REMAKE = "make it anew with `ragsam index`"


def pseudonym(key: str, salt: str, prefix: str) -> str:
    """Return `prefix` and 10 hexadecimal digits that stand for `key`."""
    return prefix + hashlib.sha256(f"{salt}/{prefix}/{key}".encode()).hexdigest()[:10]


@dataclass
class Bank:
    """Labelled slices in the order of their rows.

    Attributes:
        descriptors: [N, D], float32, unit length.
        labels: [N, S, S], uint8, on the network's own grid.
        patients, cases: [N], pseudonyms.
        slices: [N], index of the slice in its volume, oriented to RAS.
        fit: what a user of the bank must share with it: card, labels, preprocessing, descriptor and, where the
            descriptor needs it, the encoder's fingerprint.
        salt: of the pseudonyms.
        annotated: [N, K + 1], bool, the classes that each slice's case annotates; None where every case annotates all.
    """

    descriptors: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    cases: np.ndarray
    slices: np.ndarray
    fit: dict[str, Any]
    salt: str = field(default_factory=lambda: secrets.token_hex(16))
    annotated: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.descriptors)

    @classmethod
    def collect(cls, batches: Iterable[Mapping[str, Any]], fit: dict[str, Any]) -> Bank:
        """Make a bank of batches {"descriptor" [B, D], "label" [B, S, S], "patient", "case", "slice"}.

        They may hold "annotated" [B, K + 1] too; without it every class is.

        Raises:
            InputError: an item without patient, or no item at all.
        """
        salt = secrets.token_hex(16)
        names = ("descriptor", "label", "patient", "case", "slice", "annotated")
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for batch in batches:
            for patient, case in zip(batch["patient"], batch["case"], strict=True):
                if not patient:
                    raise InputError(f"{case}: no patient; a bank needs one for every slice")
            parts["descriptor"].append(np.asarray(batch["descriptor"], np.float32))
            parts["label"].append(np.asarray(batch["label"], np.uint8))
            parts["patient"] += [pseudonym(str(key), salt, "p") for key in batch["patient"]]
            parts["case"] += [pseudonym(str(key), salt, "c") for key in batch["case"]]
            parts["slice"] += [int(z) for z in batch["slice"]]
            if "annotated" in batch:
                parts["annotated"].append(np.asarray(batch["annotated"], bool))
        if not parts["slice"]:
            raise InputError("bank: no labelled slice to put in; check the datalist's training section")
        return cls(
            np.concatenate(parts["descriptor"]),
            np.concatenate(parts["label"]),
            np.array(parts["patient"]),
            np.array(parts["case"]),
            np.array(parts["slice"]),
            fit,
            salt,
            _unless_all(parts["annotated"]),
        )

    def own_patients(self, patient: str | None, case: str | None) -> set[str]:
        """Return the pseudonyms under which a query's patient may stand: by its key, and by a case of that name."""
        own = {pseudonym(patient, self.salt, "p")} if patient else set()
        if case:
            own |= set(self.patients[self.cases == pseudonym(case, self.salt, "c")].tolist())
        return own

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the bank into `folder`; an older bank there is replaced whole.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(folder)
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(zip(self.patients, self.cases, self.slices, self._annotated_texts(), strict=True))
        files = {
            "descriptors": _write_named(folder, "descriptors", ".npy", lambda p: np.save(p, self.descriptors)),
            "labels": _write_named(folder, "labels", ".npy", lambda p: np.save(p, self.labels)),
            "slices": _write_named(folder, "slices", ".csv", lambda p: p.write_text(table.getvalue())),
        }
        manifest = {
            "format": FORMAT_VERSION,
            "slices": len(self),
            "patients": len(set(self.patients)),
            "fit": self.fit,
            "salt": self.salt,
            "files": files,
        }
        write_json_atomic(folder / "manifest.json", {**manifest, "sha256": _digest(manifest)})
        kept = {entry["name"] for entry in files.values()}
        for stem in files:
            for path in folder.glob(f"{stem}-*"):
                if path.name not in kept:
                    path.unlink()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], fit: Mapping[str, Any] | None = None) -> Bank:
        """Open a bank, its labels memory-mapped, after every file's SHA-256 is found right.

        Args:
            fit: what the bank must have been made for; None takes any.

        Raises:
            InputError: no bank, a damaged one, or one made for something else.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise InputError(f"bank {folder.name}: no manifest.json in it; make a bank with `ragsam index`")
        manifest = read_json(folder / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
            raise InputError(f"bank {folder.name}: not a bank of format {FORMAT_VERSION}; {_REMAKE}")
        if manifest.pop("sha256", None) != _digest(manifest):
            raise InputError(f"bank {folder.name}: its manifest is damaged; {_REMAKE}")
        for name, want in (fit or {}).items():
            have = manifest["fit"].get(name)
            if have != want:
                raise InputError(f"bank {folder.name}: made for another {name} ({have}, not {want}); {_REMAKE}")
        paths = {}
        for stem, entry in manifest["files"].items():
            path = paths[stem] = folder / Path(entry["name"]).name
            if not path.is_file() or sha256_file(path) != entry["sha256"]:
                raise InputError(f"bank {folder.name}: {stem} is missing or damaged; {_REMAKE}")
        rows = list(csv.reader(io.StringIO(paths["slices"].read_text())))[1:]
        return cls(
            np.load(paths["descriptors"], allow_pickle=False),
            np.load(paths["labels"], mmap_mode="r", allow_pickle=False),
            np.array([row[0] for row in rows]),
            np.array([row[1] for row in rows]),
            np.array([int(row[2]) for row in rows]),
            manifest["fit"],
            manifest["salt"],
            _unless_all([np.array([[digit == "1" for digit in row[3]] for row in rows], bool)]),
        )

    def _annotated_texts(self) -> list[str]:
        """Return a digit a class for each slice, 1 for annotated; nothing where every class is."""
        if self.annotated is None:
            return [""] * len(self)
        return ["".join("01"[int(known)] for known in row) for row in self.annotated]


def _unless_all(parts: list[np.ndarray]) -> np.ndarray | None:
    """Join masks [n, K + 1] to one, or return None where they say no more than that everything is annotated."""
    annotated = np.concatenate(parts) if parts else np.ones((0, 0), bool)
    return None if annotated.all() else annotated


def _digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content: a wrong salt, above all, would let own patients through."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _write_named(folder: Path, stem: str, suffix: str, write: Any) -> dict[str, str]:
    """Write a file under a name that tells its content, so that an older manifest's file is never overwritten."""
    draft = folder / f"{stem}-draft{suffix}"
    with atomic_write(draft) as temporary:
        write(temporary)
    digest = sha256_file(draft)
    final = folder / f"{stem}-{digest[:12]}{suffix}"
    os.replace(draft, final)
    return {"name": final.name, "sha256": digest}
