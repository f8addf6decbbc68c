"""Files and folders under temporary names beside their final one. A killed writer's drafts go when the next one writes.

A writer locks its drafts, and the system unlocks them when it dies: what can be locked belongs to nobody.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, which removes no file that is open
    fcntl = None

PREFIX = ".tmp-"
#: As `tempfile` makes the rest of the name: a file of somebody else's that begins alike is not ours to remove.
_DRAFT = re.compile(rf"{re.escape(PREFIX)}[a-z0-9_]{{8}}(\.[^.]+)*")


@contextmanager
def draft_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a new file, removed unless it was moved away; what dead writers left in the folder is removed first."""
    remove_drafts(folder)
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=PREFIX, suffix=suffix)
        _hold(handle)
        if os.path.exists(name):
            break
        os.close(handle)  # another writer took it for left over, in the moment before it was held
    path = Path(name)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder, as `draft_file` does a file; its permissions follow the umask."""
    with draft_file(folder, ".lock") as lock:
        path = lock.with_suffix("")
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def remove_drafts(folder: Path, *, below: bool = False) -> None:
    """Remove the drafts of dead writers in a folder, and in those below it."""
    for path in folder.rglob(f"{PREFIX}*") if below else folder.glob(f"{PREFIX}*"):
        if _DRAFT.fullmatch(path.name):
            with suppress(OSError):
                _remove_if_dead(path)


def _remove_if_dead(path: Path) -> None:
    """Remove a draft that no writer holds. A folder is held by the lock file of its name."""
    if path.is_dir():
        if not path.with_name(f"{path.name}.lock").exists():
            shutil.rmtree(path)
        return
    handle = os.open(path, os.O_RDWR)
    try:
        if _is_free(handle):
            if path.suffix == ".lock":
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()
    finally:
        os.close(handle)


def _hold(handle: int) -> None:
    """Lock an open file for as long as this process lives, where the file system has locks."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def _is_free(handle: int) -> bool:
    """Return whether no process holds an open file; False where the file system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
