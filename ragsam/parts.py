"""Parts of a command: one call for each of N machines, and then one that merges what they wrote.

Part I of N writes into the folder `part-I-of-N` of its output. Cases are cut in their order, so that what is merged has
the order of a single call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ragsam.errors import InputError

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
