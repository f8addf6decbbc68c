"""Which numbers label files have, by the files beside them and by the values in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ragsam.data.cards.model import Card
from ragsam.data.checks.check_case import scan_volume
from ragsam.data.checks.label_counts import LabelCounts
from ragsam.data.checks.parallel import run_each
from ragsam.data.label_numbers import NUMBERINGS, possible_numberings, told_numbering
from ragsam.errors import InputError

_SHOWN = 10


def find_numbering(
    paths: Sequence[Path],
    card: Card,
    raw: Mapping[int, int] | None,
    *,
    what: str,
    way_out: str,
    given: str | None = None,
    jobs: int = 1,
) -> str | None:
    """Return the numbers of label files that belong together, `card` or `raw`; None if both come to the same.

    Files that tell their numbers, and values that only one numbering has, decide; see `told_numbering`. A file of
    values that neither has, or that cannot be read, decides nothing: its fault is reported by its reader.

    Args:
        raw: the data set's values to the card's; None if they are the same.
        what: names the files in errors.
        way_out: how errors tell to name the numbers.
        given: the numbers as the user named them.

    Raises:
        InputError: numbers that are ambiguous and not given, files of either, or of another card.
    """
    told = {path: told_numbering(path, card, raw) for path in paths}
    if raw is None:
        return None
    found = {numbering for numbering in told.values() if numbering is not None}
    if given is not None:
        if found - {given}:
            raise InputError(
                f"{what}: {given} is given, but the files beside them say {min(found - {given})}; correct it"
            )
        return given
    silent = [path for path, numbering in told.items() if numbering is None]
    values = frozenset[int]()
    possible = frozenset(found or NUMBERINGS)
    for one in run_each(_values, silent, jobs=min(jobs, len(silent) or 1), crashed=_unknown):
        if fitting := possible_numberings(one, card, raw):
            values |= one
            possible &= fitting
    if len(found) > 1 or not possible:
        raise InputError(f"{what}: some have the card's numbers, others the data set's own; take them apart")
    if len(possible) == 1:
        return min(possible)
    if all(raw.get(value) == value for value in values - {0}):
        return None
    shown = ", ".join(map(str, sorted(values)[:_SHOWN]))
    either = f"their values ({shown}) may be the numbers of card {card.name} or the data set's own"
    raise InputError(f"{what}: {either}; {way_out}")


def _values(path: Path) -> frozenset[int]:
    counts = LabelCounts()
    try:
        scan_volume(path, path.name, counts)
    except InputError:
        return frozenset()
    return frozenset(counts.voxels)


def _unknown(path: Path) -> frozenset[int]:
    return frozenset()
