"""What became of every key of a checkpoint, and of every tensor that a network needs."""

from __future__ import annotations

import re
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
        lines = [f"{kind}, {fold(keys)}" for kind in ("used", "resized") if (keys := getattr(self, kind))]
        for kind in ("ignored", "missing"):
            reasons: dict[str, list[str]] = {}
            for key, reason in getattr(self, kind).items():
                reasons.setdefault(reason, []).append(key)
            lines += [f"{kind}, {fold(keys)}: {reason}" for reason, keys in reasons.items()]
        return lines


def fold(keys: Iterable[str]) -> str:
    """Return how many keys there are and their names, those that differ in numbers alone told once.

    >>> fold(["w_a_000", "w_a_001", "neck.0.bias"])
    '3: w_a_* (2), neck.*.bias'
    """
    counts: dict[str, int] = {}
    for key in keys:
        name = _NUMBER.sub("*", key)
        counts[name] = counts.get(name, 0) + 1
    names = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in counts.items())
    return f"{sum(counts.values())}: {names}"
