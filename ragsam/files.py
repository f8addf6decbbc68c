"""Files that are written whole or not at all, and read with clear errors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ragsam.drafts import draft_file
from ragsam.errors import InputError

_NAME_LETTERS = 60  # in UTF-8 far below the 255 bytes of a file's name


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; move it onto `path` when the block ends well.

    The temporary file keeps the target's suffixes, since writers such as nibabel choose the format by them. On an
    error it is removed, and what stood under `path` before is untouched; after a kill the next write in the folder
    removes it.

    Args:
        path: the final name; missing parent folders are made.

    Raises:
        InputError: where the file cannot be written (no permission, disk full).
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        drafts = ExitStack()
        temporary = drafts.enter_context(draft_file(target.parent, "".join(target.suffixes)))
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose another output folder") from error
    with drafts:
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, target)
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error.strerror or error}); free some space") from error


def file_names(names: Iterable[str]) -> list[str]:
    """Return names as file names without suffix, in their order, no two alike.

    What is no letter, digit, `_` or `-` becomes `_`, and a name longer than 60 letters is cut. One that then equals an
    earlier one, capitals aside, gets `_2`, `_3` and so on.
    """
    found: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", name))[:_NAME_LETTERS]
        unique = stem
        number = 1
        while unique.casefold() in found:
            number += 1
            unique = f"{stem}_{number}"
        found[unique.casefold()] = unique
    return list(found.values())


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 under `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: str | os.PathLike[str], content: Any) -> None:
    """Write `content` as indented JSON under `path`; NaN and infinity are refused, since JSON has none."""
    write_text_atomic(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_bytes(path: str | os.PathLike[str], most: int, where: str = "") -> bytes:
    """Read a file of at most so many bytes.

    Args:
        where: names it in errors; empty: its path.

    Raises:
        InputError: where it is missing, unreadable or larger.
    """
    where = where or str(path)
    with _reading(where), Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # 0 of a pipe
        content = file.read(min(size, most) or most)
        if file.read(1):
            raise InputError(f"{where}: more than the {most >> 20} MB that such a file may have; check the path")
    return content


def weight_folders(folder: Path) -> list[Path]:
    """Return where weights lie that somebody fetched: a folder, `weights/` and `models/` in it, and torch's own."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch_home = Path(os.environ.get("TORCH_HOME") or cache_home / "torch")
    return [folder, folder / "weights", folder / "models", torch_home / "hub" / "checkpoints"]


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        InputError: where the file is missing or unreadable.
    """
    digest = hashlib.sha256()
    with _reading(path), Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _reading(where: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); check its permissions") from error
