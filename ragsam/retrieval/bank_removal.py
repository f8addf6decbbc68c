"""Taking patients out of a bank."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ragsam.errors import InputError
from ragsam.retrieval.bank_arrays import append_rows, finish_array
from ragsam.retrieval.bank_manifest import (
    manifest_of,
    part_entry,
    part_names,
    read_manifest,
    read_rows,
    remove_unnamed,
    write_manifest,
    writer_lock,
)
from ragsam.retrieval.bank_rows import ARRAYS, COLUMNS, Rows, pseudonym, table_text

_BLOCK = 1024
logger = logging.getLogger(__name__)


def remove_patients(
    folder: str | os.PathLike[str],
    patients: Sequence[str],
    measure: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Take every slice of some patients out of a bank; the parts that hold any are written again, the others stay.

    Whom the last removal took out may be named again: a command that was killed at its end succeeds when repeated.

    Args:
        folder: of the bank.
        patients: their keys. Errors do not show them; of those that leave a hash is kept until the bank changes next.
        measure: see `BankWriter.commit`.

    Returns:
        The new manifest.

    Raises:
        InputError: no sound bank, another process writes to it, a patient who is not in it, or nobody would be left.
            Nothing is removed then.
    """
    folder = Path(folder)
    if not folder.is_dir():
        read_manifest(folder)  # reports that there is none, and makes none
    with writer_lock(folder):
        manifest = read_manifest(folder)
        remove_unnamed(folder, manifest)  # a draft may hold their slices too
        known = set(read_rows(folder, manifest)["patients"].tolist())
        gone = [pseudonym(key, manifest["salt"], "r") for key in patients]
        leaving = [pseudonym(key, manifest["salt"], "p") for key in patients]
        for number, name in enumerate(leaving, 1):
            if name not in known and gone[number - 1] not in manifest.get("removed", ()):
                place = f"patient {number} of {len(leaving)}" if len(leaving) > 1 else "the patient"
                raise InputError(f"--remove: {place} is not in bank {folder.name}; nothing was removed")
        if not known & set(leaving):
            logger.info("bank: taken out already; nothing is left to remove")
            return manifest
        if not known - set(leaving):
            raise InputError(f"--remove: nobody would be left in bank {folder.name}; delete its folder instead")
        new = without_patients(folder, manifest, leaving) | {"removed": gone}
        new |= measure(new) if measure else {}
        write_manifest(folder, new)
        return new


def without_patients(folder: Path, manifest: Mapping[str, Any], leaving: Sequence[str]) -> dict[str, Any]:
    """Return the manifest of a bank without some patients, by their pseudonyms; its files are finished by then."""
    parts = []
    for part in manifest["parts"]:
        rows = read_rows(folder, {"parts": [part]})
        staying = np.flatnonzero(~np.isin(rows["patients"], leaving))
        if len(staying) == part["slices"]:
            parts.append(part)
        elif len(staying):
            parts.append(_rewritten(folder, rows, staying, manifest["keeps"]))
    about = (manifest[key] for key in ("fit", "keeps", "salt"))
    return manifest_of(folder, *about, parts, manifest["stamps"])


def _rewritten(folder: Path, rows: Rows, staying: np.ndarray, keeps: Sequence[str]) -> dict[str, Any]:
    """Write some rows of a part as a new one, block by block."""
    names = part_names(secrets.token_hex(6), keeps)
    try:
        for stem, name in names.items():
            with (folder / name).open("wb") as file:
                if stem == "slices":
                    table = {key: values[staying] for key, values in rows.items() if key not in ARRAYS}
                    file.write((",".join(COLUMNS) + "\n" + table_text(table)).encode())
                else:
                    for start in range(0, len(staying), _BLOCK):
                        append_rows(file, rows[stem][staying[start : start + _BLOCK]])
            if stem != "slices":
                finish_array(folder / name, len(staying), ARRAYS[stem][0])
            with (folder / name).open("rb+") as file:
                os.fsync(file.fileno())
    except OSError as error:
        for name in names.values():
            (folder / name).unlink(missing_ok=True)
        raise InputError(f"bank {folder.name}: cannot be written ({error.strerror}); free some space") from error
    return part_entry(folder, names, len(staying))
