"""Banks of parts become one: their files are copied, and one manifest names them all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.files import write_text_atomic
from ragsam.parts import require_same_stamps
from ragsam.retrieval.bank_manifest import (
    manifest_of,
    read_manifest,
    read_rows,
    remove_unnamed,
    require_own,
    write_manifest,
    writer_lock,
)
from ragsam.retrieval.bank_rows import new_salt

_SALT = "parts-salt.txt"


def shared_salt(output: Path) -> str:
    """Return the salt of the pseudonyms of all parts of a bank: the first part to ask draws it.

    Without it a patient would have another pseudonym in every part.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / _SALT
    if not path.is_file():
        draft = output / f".tmp-{secrets.token_hex(6)}"
        write_text_atomic(draft, new_salt())
        with suppress(FileExistsError):  # another part was first
            os.link(draft, path)
        draft.unlink()
    return path.read_text(encoding="utf-8")


def merge_banks(
    folder: Path,
    parts: Sequence[Path],
    measure: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Make one bank of the banks of all parts, in their order, and return its manifest.

    Args:
        folder: of the bank; replaces the one that is there.
        parts: folders of banks, which stay.
        measure: see `BankWriter.commit`.

    Raises:
        InputError: a damaged bank, banks that were made for different things or with different salts, or a case that is
            in two of them.
    """
    require_own(folder)
    require_same_stamps(parts)
    manifests = [read_manifest(part) for part in parts]
    first = manifests[0]
    seen: set[str] = set()
    for part, manifest in zip(parts, manifests, strict=True):
        for name in ("fit", "keeps", "salt"):
            if manifest[name] != first[name]:
                raise InputError(f"{part.name}: made with another {name} than {parts[0].name}; make it again")
        cases = set(read_rows(part, manifest)["cases"].tolist())  # compares every file with its SHA-256
        if seen & cases:
            raise InputError(f"{part.name}: a case of it is in another part too; make the parts of one datalist again")
        seen |= cases
    with writer_lock(folder):
        for part, manifest in zip(parts, manifests, strict=True):
            _copy(part, manifest, folder)
        entries = [entry for manifest in manifests for entry in manifest["parts"]]
        stamps = {case: stamp for manifest in manifests for case, stamp in manifest["stamps"].items()}
        merged = manifest_of(folder, first["fit"], first["keeps"], first["salt"], entries, stamps)
        merged |= measure(merged)
        write_manifest(folder, merged)
    return merged


def _copy(part: Path, manifest: dict[str, Any], folder: Path) -> None:
    try:
        for entry in manifest["parts"]:
            for file in entry["files"].values():
                shutil.copyfile(part / file["name"], folder / file["name"])
    except OSError as error:
        with suppress(InputError):
            remove_unnamed(folder, read_manifest(folder))
        raise InputError(f"bank {folder.name}: cannot be written ({error.strerror}); free some space") from error
