"""Parts of a command: one call for each of N machines, and then one that merges what they wrote.

Part I of N writes into the folder `part-I-of-N` of its output. Cases are cut in their order, so that what is merged has
the order of a single call.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ragsam.errors import InputError
from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json

#: In a part's folder: what all parts of a command must have in common.
STAMP_NAME = "part.json"
T = TypeVar("T")
_TEXT = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")
_FOLDER = re.compile(r"part-([1-9]\d{0,5})-of-([1-9]\d{0,5})")


@dataclass(frozen=True)
class Part:
    """One of the parts of a command.

    Attributes:
        number: from 1 on.
        count: how many parts there are.
    """

    number: int
    count: int

    @classmethod
    def of_text(cls, text: str) -> Part:
        """Read `I/N`.

        Raises:
            InputError: another text, or I above N.
        """
        found = _TEXT.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise InputError(f"--part {text}: not I/N with I from 1 to N; the first of 8 parts is 1/8")
        return cls(int(found[1]), int(found[2]))

    def folder(self, output: Path) -> Path:
        """Return the folder that this part writes."""
        return output / f"part-{self.number}-of-{self.count}"

    def of(self, cases: Sequence[T]) -> list[T]:
        """Return the cases of this part; parts differ in length by one at most.

        Raises:
            InputError: more parts than cases.
        """
        if self.count > len(cases):
            raise InputError(f"--part {self.number}/{self.count}: there are {len(cases)} cases; ask for fewer parts")
        start, stop = (len(cases) * place // self.count for place in (self.number - 1, self.number))
        return list(cases[start:stop])


def part_folders(output: Path) -> list[Path]:
    """Return the folders of all parts of an output, in order.

    Raises:
        InputError: no part, a missing one, or parts of several divisions.
    """
    found = {}
    for path in output.iterdir() if output.is_dir() else ():
        if match := _FOLDER.fullmatch(path.name):
            found[int(match[2]), int(match[1])] = path
    counts = {count for count, _ in found}
    if not counts:
        raise InputError(f"{output}: no part in it; write the parts first, with --part 1/N to N/N and this --output")
    if len(counts) > 1:
        raise InputError(f"{output}: parts of {min(counts)} and of {max(counts)} in it; remove those of one division")
    count = counts.pop()
    for number in range(1, count + 1):
        if (count, number) not in found:
            raise InputError(f"{output}: part {number} of {count} is missing; run it with --part {number}/{count}")
    return [found[count, number] for number in range(1, count + 1)]


def write_stamp(folder: Path, cases: Iterable[str], arguments: Mapping[str, Any]) -> None:
    """Write what all parts of a command have in common into a part's folder: a hash of all cases, and arguments.

    Args:
        cases: a text for every case of the command, in order, those of the other parts too.
        arguments: everything else that the outputs depend on, as JSON.
    """
    digest = hashlib.sha256(json.dumps(list(cases)).encode()).hexdigest()
    write_json_atomic(folder / STAMP_NAME, {**arguments, "cases": digest})


def require_same_stamps(parts: Sequence[Path]) -> None:
    """Check that parts are of one command.

    Raises:
        InputError: a part without a stamp, or one of other cases or arguments.
    """
    for part in parts:
        if not (part / STAMP_NAME).is_file():
            raise InputError(f"{part.name}: was not finished; run this part again")
    stamps = [read_json(part / STAMP_NAME, {"type": "object"}) for part in parts]
    for part, stamp in zip(parts, stamps, strict=True):
        for name in sorted(stamps[0].keys() | stamp.keys()):
            if stamp.get(name) != stamps[0].get(name):
                raise InputError(f"{part.name}: `{name}` is not as in {parts[0].name}; run this part again")


def as_text(value: Any) -> Any:
    """Return a value of a stamp: paths as texts, absolute."""
    if isinstance(value, os.PathLike):
        return str(Path(value).absolute())
    return [as_text(one) for one in value] if isinstance(value, list | tuple) else value
