"""Writing a bank: a part is streamed to disk case by case, and becomes the bank's by a new manifest."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ragsam.errors import InputError
from ragsam.files import write_text_atomic
from ragsam.io.documents import check_schema, parse_json
from ragsam.retrieval.bank_arrays import append_rows, finish_array
from ragsam.retrieval.bank_manifest import (
    DRAFT,
    FORMAT_VERSION,
    MANIFEST,
    digest,
    manifest_of,
    part_entry,
    part_names,
    read_manifest,
    read_rows,
    remove_unnamed,
    require_own,
    write_manifest,
    writer_lock,
)
from ragsam.retrieval.bank_removal import without_patients
from ragsam.retrieval.bank_rows import ARRAYS, COLUMNS, Rows, new_salt, pseudonym, rows_of_batch, table_text

_TEXT = {"type": "string"}
_HEAD = {
    "type": "object",
    "required": ["part", "salt", "keeps"],
    "properties": {
        "part": {"type": "string", "pattern": "^[0-9a-f]{12}$"},
        "salt": _TEXT,
        "keeps": {"type": "array", "items": _TEXT},
    },
}
_SIZE = {"type": "integer", "minimum": 0}
_FINISHED = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["case", "stamp", "rows", "sizes"],
        "properties": {
            "case": _TEXT,
            "stamp": _TEXT,
            "rows": _SIZE,
            "sizes": {"type": "object", "additionalProperties": _SIZE},
        },
    },
}


class BankWriter:
    """Writes a part of a bank; to be used as a context, and ended by `commit`.

    The part's files have their final names, which no manifest lists before `commit`. A draft (`draft.jsonl`)
    says which cases are finished, and how long the files were then: a writer who comes after a killed one continues
    behind the last of them. Memory holds one batch.

    Args:
        folder: of the bank. The lock for writers is held until the context ends.
        fit: what the bank is made for.
        keeps: the optional arrays that it holds.
        stamps: {case: text that changes with what is to be indexed}; of a draft only these very cases are taken over.
            None begins again always.
        grow: put the part beside those of the bank there, not in their place.
        salt: of the pseudonyms, for a new bank; None draws one.
        replaces: with `grow`, the keys of patients whose slices leave the bank as the part enters it.

    Raises:
        InputError: (on entering) another process writes, the folder cannot be written; with `grow` no bank, a damaged
            one, one made for something else, or one that has one of the cases by another stamp.

    Attributes:
        there: with `grow`, the cases that the bank has already, by the same stamp; they are not left to write.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        fit: Mapping[str, Any],
        *,
        keeps: Sequence[str] = (),
        stamps: Mapping[str, str] | None = None,
        grow: bool = False,
        salt: str | None = None,
        replaces: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.stamps = dict(stamps or {})
        self.grow = grow
        self.replaces = tuple(replaces)
        # As JSON gives it back: a draft's head is compared with it.
        self._about: dict[str, Any] = json.loads(json.dumps({"fit": dict(fit), "keeps": list(keeps)}))
        self._old: dict[str, Any] | None = None
        self._sound = True
        self._part = ""
        self.salt = salt or new_salt()
        self.there: list[str] = []
        self._done: dict[str, str] = {}
        self._count = 0
        self._current: str | None = None
        self._files: dict[str, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> BankWriter:
        require_own(self.folder)
        with ExitStack() as stack:
            stack.enter_context(writer_lock(self.folder))
            stack.callback(self._end)
            with self._writing():
                self._begin()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def left(self) -> list[str]:
        """Return the cases of `stamps` that are not finished yet, in their order."""
        left = [case for case in self.stamps if pseudonym(case, self.salt, "c") not in self._done]
        there = set(self.there)
        return [case for case in left if case not in there]

    def add(self, batch: Mapping[str, Any]) -> None:
        """Add the slices of a batch as `rows_of_batch` takes it; a case is finished when the next one begins.

        Raises:
            InputError: an item without patient, or the disk is full.
        """
        rows = rows_of_batch(batch, self.salt, self._about["keeps"])
        start = 0
        for case, slices in groupby(map(str, batch["case"])):
            if case != self._current:
                self._finish_case()
                self._current = case
            stop = start + len(list(slices))
            self.append({name: values[start:stop] for name, values in rows.items()})
            start = stop

    def append(self, rows: Rows) -> None:
        """Add rows whose patients and cases are pseudonyms already."""
        with self._writing():
            for stem, file in self._files.items():
                if stem == "slices":
                    file.write(table_text(rows).encode())
                else:
                    append_rows(file, rows[stem])
            self._count += len(rows["slices"])

    def commit(self, measure: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> dict[str, Any]:
        """Make the part the bank's, and return the manifest.

        Args:
            measure: of a manifest whose files are finished, what more it is to say; a bank is not without it.

        Raises:
            InputError: no slice was added and none is there, or the disk is full.
        """
        with self._writing():
            self._finish_case()
            if not self._count and self.there:
                return self._old
            if not self._count:
                raise InputError("bank: no labelled slice to put in; check the datalist's training section")
            self._close()
            for stem, name in self._names().items():
                if stem != "slices":
                    finish_array(self.folder / name, self._count, ARRAYS[stem][0])
                _sync(self.folder / name)
            parts, stamps = self._staying()
            parts = [*parts, part_entry(self.folder, self._names(), self._count)]
            stamps = {**stamps, **self._done}
            manifest = manifest_of(self.folder, self._about["fit"], self._about["keeps"], self.salt, parts, stamps)
            self._old = manifest | (measure(manifest) if measure else {})
            write_manifest(self.folder, self._old)
        return self._old

    def _begin(self) -> None:
        """Take over the draft that a killed writer left, or begin one."""
        grown: dict[str, Any] = {"grows": None}
        if self.grow:
            self._old = read_manifest(self.folder, self._about["fit"])
            rows = read_rows(self.folder, self._old)
            staying = ~np.isin(rows["patients"], self._leaving())
            self._find_there(set(rows["cases"][staying].tolist()))
            grown = {"grows": digest(self._old), "salt": self._old["salt"]}
        elif (self.folder / MANIFEST).is_file():
            try:
                self._old = read_manifest(self.folder)
            except InputError:
                self._sound = False  # it is replaced; until then its files are left alone
        head, finished = _read_draft(self.folder)
        if not self._goes_on(head, finished, grown):
            head = {"format": FORMAT_VERSION, "salt": self.salt, "part": secrets.token_hex(6), **self._about, **grown}
            finished = []
        self._part = head["part"]
        self.salt = head["salt"]
        self._done = {line["case"]: line["stamp"] for line in finished}
        sizes: dict[str, int] = {}
        if finished:
            self._count, sizes = finished[-1]["rows"], finished[-1]["sizes"]
        write_text_atomic(self.folder / DRAFT, "".join(json.dumps(line) + "\n" for line in (head, *finished)))
        if self._sound:
            remove_unnamed(self.folder, self._old, self._part)
        self._open(sizes)

    def _leaving(self) -> list[str]:
        """Return the pseudonyms of the patients who are replaced."""
        return [pseudonym(key, self._old["salt"], "p") for key in self.replaces]

    def _staying(self) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return the parts and the stamps of the old bank that the new one keeps."""
        if not self.grow:
            return [], {}
        old = without_patients(self.folder, self._old, self._leaving()) if self.replaces else self._old
        return old["parts"], old["stamps"]

    def _find_there(self, cases: set[str]) -> None:
        """Note which cases the bank has already; refuse one whose files are not those that it was made of."""
        salt = self._old["salt"]
        for case in self.stamps:
            name = pseudonym(case, salt, "c")
            if name not in cases:
                continue
            if self._old["stamps"].get(name) != self._stamp(case, salt):
                way = "leave it out, or take its patient out first with `ragsam index RUN --remove PATIENT`"
                raise InputError(f"{case}: is in bank {self.folder.name} already, made of other files; {way}")
            self.there.append(case)

    def _goes_on(self, head: dict[str, Any], finished: list[dict[str, Any]], grown: dict[str, Any]) -> bool:
        """Return whether a draft is of what is to be written, as far as it came, and did not become a bank's part."""
        wanted = {"format": FORMAT_VERSION, **self._about, **grown}
        if not self.stamps or {**head, **wanted} != head:
            return False
        if self._old is not None:
            parts = [part["files"]["slices"]["name"] for part in self._old["parts"]]
            if f"slices-{head['part']}.csv" in parts:
                return False
        known = {(pseudonym(case, head["salt"], "c"), self._stamp(case, head["salt"])) for case in self.stamps}
        return {(line["case"], line["stamp"]) for line in finished} <= known

    def _stamp(self, case: str, salt: str) -> str:
        return pseudonym(self.stamps.get(case, ""), salt, "s")

    def _finish_case(self) -> None:
        """Note the case at hand in the draft, once all of it is on the disk."""
        if self._current is None:
            return
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        sizes = {stem: file.tell() for stem, file in self._files.items()}
        case, stamp = pseudonym(self._current, self.salt, "c"), self._stamp(self._current, self.salt)
        line = {"case": case, "stamp": stamp, "rows": self._count, "sizes": sizes}
        with (self.folder / DRAFT).open("a", encoding="utf-8") as draft:
            draft.write(json.dumps(line) + "\n")
        self._done[case] = stamp
        self._current = None

    def _names(self) -> dict[str, str]:
        return part_names(self._part, self._about["keeps"])

    def _open(self, sizes: Mapping[str, int]) -> None:
        """Open the part's files behind their first so many bytes."""
        for stem, name in self._names().items():
            file = (self.folder / name).open("ab")
            self._files[stem] = file
            file.truncate(sizes.get(stem, 0))
            file.seek(0, os.SEEK_END)
            if stem == "slices" and not sizes:
                file.write((",".join(COLUMNS) + "\n").encode())

    def _close(self) -> None:
        for file in self._files.values():
            with suppress(OSError):  # a full disk, reported already
                file.close()
        self._files = {}

    def _end(self) -> None:
        """Close the files; a draft without any finished case is removed."""
        self._close()
        if self._part and self._sound and not self._done:
            remove_unnamed(self.folder, self._old)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"bank {self.folder.name}: cannot be written ({error.strerror or error}); free some space"
            ) from error


def _read_draft(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a draft's head and its finished cases, as far as they were written whole and their files are there."""
    try:
        lines = (folder / DRAFT).read_text(encoding="utf-8").split("\n")[:-1]
        head, *finished = [parse_json(line, DRAFT) for line in lines]
        check_schema(head, _HEAD, DRAFT)
        check_schema(finished, _FINISHED, DRAFT)
        names = part_names(head["part"], head["keeps"])
        there = {stem: (folder / name).stat().st_size for stem, name in names.items()}
    except (OSError, ValueError):
        return {}, []
    return head, [
        line for line in finished if all(line["sizes"].get(stem, size + 1) <= size for stem, size in there.items())
    ]


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
