"""What became of every key of a checkpoint, and of every tensor that a network needs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

_NUMBER = re.compile(r"(?<![A-Za-z])\d+")


@dataclass
class KeyReport:
    """An account of keys.

    Attributes:
        used: of the checkpoint, taken as they are.
        resized: of the checkpoint, taken at another size.
        ignored: of the checkpoint, not taken, each with the reason.
        missing: of the network, not in the checkpoint, each with what it holds instead.
    """

    used: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the account: a line for each kind and reason, with all its keys, numbers folded to `*`."""
        lines = []
        if self.used:
            lines.append(f"used, {fold(self.used)}")
        if self.resized:
            lines.append(f"resized, {fold(self.resized)}")
        for kind, reasons in (("ignored", self.ignored), ("missing", self.missing)):
            keys_by_reason = defaultdict(list)
            for key, reason in reasons.items():
                keys_by_reason[reason].append(key)
            for reason, keys in keys_by_reason.items():
                lines.append(f"{kind}, {fold(keys)}: {reason}")
        return lines


def fold(keys: Iterable[str]) -> str:
    """Return how many keys there are and their names, those that differ in numbers alone named once.

    >>> fold(["w_a_000", "w_a_001", "neck.0.bias"])
    '3: w_a_* (2), neck.*.bias'
    """
    counts = Counter(_NUMBER.sub("*", key) for key in keys)
    names = []
    for name, count in counts.items():
        if count > 1:
            name = f"{name} ({count})"
        names.append(name)
    return f"{counts.total()}: {', '.join(names)}"
