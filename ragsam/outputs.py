"""What a command may write: nothing that it reads, and over nothing that the package did not write itself.

Every folder that is written to keeps a record, `.ragsam-written.jsonl`: a line for an output before it is written, and
one with its SHA-256 afterwards. A file that is there already is replaced only if the record knows it as it is.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ragsam.errors import InputError
from ragsam.files import sha256_file

RECORD = ".ragsam-written.jsonl"
#: In a record, instead of a SHA-256: being written (a killed command's file may be there), and not written after all.
_PENDING, _ABSENT = "pending", "absent"
_FILE_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


class Outputs:
    """The files that a command is about to write into a folder; as a context it notes at the end what became of them.

    Args:
        folder: where they are written.
        names: relative to the folder.
        reads: files and folders that the command reads; what does not exist is passed over.
        overwrite: replace files that are not the package's own, or were changed since; never one that is read.

    Raises:
        InputError: an output that is read too, by whatever link or spelling, or one that may not be replaced; the
            folder cannot be written. Nothing is written then.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        names: Iterable[str],
        *,
        reads: Iterable[str | os.PathLike[str]] = (),
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.names = list(dict.fromkeys(names))
        _refuse_read(self.folder, self.names, reads)
        if not overwrite:
            _refuse_foreign(self.folder, self.names)
        self._made: list[Path] = []  # the folders that were not there, the innermost first
        self._begun = not (self.folder / RECORD).exists()
        self._note(dict.fromkeys(self.names, _PENDING))

    @classmethod
    def of_file(
        cls,
        path: str | os.PathLike[str],
        *,
        reads: Iterable[str | os.PathLike[str]] = (),
        overwrite: bool = False,
    ) -> Outputs:
        """Return the outputs of a command that writes one file."""
        return cls(Path(path).parent, [Path(path).name], reads=reads, overwrite=overwrite)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.settle()

    def settle(self) -> None:
        """Note what was written as it is now; where nothing was, leave no record and no folder of ours behind."""
        there = {name for name in self.names if (self.folder / name).is_file()}
        if not there and self._begun:
            (self.folder / RECORD).unlink(missing_ok=True)
            for folder in self._made:
                with suppress(OSError):
                    folder.rmdir()
            return
        with suppress(InputError):  # a full disk is reported by whoever writes the outputs
            self._note({name: sha256_file(self.folder / name) if name in there else _ABSENT for name in self.names})

    def _note(self, states: dict[str, str]) -> None:
        known = read_record(self.folder)
        lines = [json.dumps({"file": name, "is": is_}) for name, is_ in states.items() if known.get(name) != is_]
        if not lines:
            return
        try:
            self._made += [place for place in (self.folder, *self.folder.parents) if not place.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            # Lines are appended at once, so that commands that write into one folder do not undo each other's.
            handle = os.open(self.folder / RECORD, _FILE_FLAGS, 0o666)
            with open(handle, "w", encoding="utf-8") as file:
                file.write("\n" + "\n".join(lines) + "\n")
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror}); choose another output") from error


def read_record(folder: Path) -> dict[str, str]:
    """Return what a folder's record says of its files, by name; lines that were cut short are passed over."""
    states: dict[str, str] = {}
    with suppress(OSError, UnicodeDecodeError):
        for line in (folder / RECORD).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                entry = json.loads(line)
                states[str(entry["file"])] = str(entry["is"])
    return states


def written_files(folder: Path) -> list[str]:
    """Return the files that commands wrote into a folder, in the order of their names.

    Raises:
        InputError: one that is missing, was not finished, or is not as it was written.
    """
    names = []
    for name, state in sorted(read_record(folder).items()):
        if state == _ABSENT:
            continue
        path = folder / name
        if not path.is_file() or sha256_file(path) != state:
            raise InputError(f"{path}: missing, or not as ragsam wrote it; run the command of this folder again")
        names.append(name)
    return names


def _refuse_foreign(folder: Path, names: Sequence[str]) -> None:
    known = read_record(folder)
    foreign = []
    for name in names:
        path = folder / name
        if not os.path.lexists(path) or known.get(name) == _PENDING:
            continue
        if not path.is_file() or known.get(name) != sha256_file(path):
            foreign.append(path)
    if foreign:
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise InputError(
            f"{foreign[0]}{more}: exists, and is not as ragsam wrote it; choose another --output, or replace it "
            "with --overwrite"
        )


def _refuse_read(folder: Path, names: Sequence[str], reads: Iterable[str | os.PathLike[str]]) -> None:
    taken: set[object] = set()
    for read in reads:
        with suppress(OSError):
            taken |= _identities(Path(read))
    for path in (folder, *(folder / name for name in names)):
        if taken & _identities(path):
            raise InputError(f"{path}: an input of the same command, which is never replaced; choose another --output")


def _identities(path: Path) -> set[object]:
    """Return by what a file is distinguished: its names, without regard to case and accents' form, and its inode."""
    real = Path(os.path.realpath(path.parent)) / path.name
    found: set[object] = {unicodedata.normalize("NFC", str(name)).casefold() for name in (real, os.path.realpath(path))}
    with suppress(OSError):
        stat = path.stat()
        found.add((stat.st_dev, stat.st_ino))
    return found
