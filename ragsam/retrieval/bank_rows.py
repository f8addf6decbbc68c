"""The rows of a bank: what is kept of a slice, with patient and case under pseudonyms."""

from __future__ import annotations

import csv
import hashlib
import io
import secrets
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ragsam.errors import InputError

#: The arrays that a bank may hold, a row a slice: dtype and number of axes.
ARRAYS: dict[str, tuple[type, int]] = {
    "descriptors": (np.float32, 2),
    "labels": (np.uint8, 3),
    "images": (np.uint8, 3),
}
#: Those that not every bank holds.
OPTIONAL = ("images",)
COLUMNS = ("patient", "case", "slice", "height", "classes", "annotated")
_IN_BATCH = {"descriptors": "descriptor", "labels": "label", "images": "image"}

#: Arrays by name, all of the same length: those of `ARRAYS`, and patients, cases, slices, heights, present, annotated.
Rows = dict[str, np.ndarray]


#: How a salt begins by which a key is hashed slowly; what follows it is the cost, as a power of two, and `:`.
SLOW = "scrypt:"
#: 16 MB of memory and about 60 ms for each key: it is what trying all of many keys costs.
COST = 14


def new_salt() -> str:
    """Return a salt for the pseudonyms of a new bank."""
    return f"{SLOW}{COST}:{secrets.token_hex(16)}"


@lru_cache(1 << 16)
def pseudonym(key: str, salt: str, prefix: str) -> str:
    """Return `prefix` and 10 hexadecimal digits that stand for `key`.

    The hash is slow, so that keys cannot be tried by the million; by a salt of an older bank it is a fast one.

    Source: RFC 7914 (scrypt), with r = 8 and p = 1.
    """
    text = f"{salt}/{prefix}/{key}".encode(errors="surrogateescape")
    if not salt.startswith(SLOW):
        return prefix + hashlib.sha256(text).hexdigest()[:10]
    cost = int(salt.removeprefix(SLOW).partition(":")[0])
    return prefix + hashlib.scrypt(text, salt=salt.encode(), n=2**cost, r=8, p=1, maxmem=1 << 28, dklen=5).hex()


def rows_of_batch(batch: Mapping[str, Any], salt: str, keeps: Sequence[str] = ()) -> Rows:
    """Return the rows of a batch {"descriptor" [B, D], "label" [B, S, S], "patient", "case", "slice", "height"}.

    Args:
        batch: may hold "annotated" [B, K + 1] too; without it every class is. Where they are kept, "image" [B, s, s],
            uint8.
        salt: of the pseudonyms.
        keeps: those of `OPTIONAL` to keep.

    Raises:
        InputError: an item without patient.
    """
    for patient, case in zip(batch["patient"], batch["case"], strict=True):
        if not patient:
            raise InputError(f"{case}: no patient; a bank needs one for every slice")
    names = ("descriptors", "labels", *keeps)
    rows: Rows = {name: np.asarray(batch[_IN_BATCH[name]], ARRAYS[name][0]) for name in names}
    rows["patients"] = np.array([pseudonym(str(key), salt, "p") for key in batch["patient"]])
    rows["cases"] = np.array([pseudonym(str(key), salt, "c") for key in batch["case"]])
    rows["slices"] = np.array([int(z) for z in batch["slice"]])
    rows["heights"] = np.asarray(batch["height"], np.float64)
    rows["present"] = classes_present(rows["labels"])
    annotated = batch.get("annotated")
    rows["annotated"] = np.ones((len(rows["slices"]), 0), bool) if annotated is None else np.asarray(annotated, bool)
    return rows


def classes_present(labels: np.ndarray) -> np.ndarray:
    """Return [N, C], bool: whether a slice [N, S, S] has a pixel of a class; C is the largest class and one."""
    present = np.zeros((len(labels), 256), bool)
    for index, label in enumerate(labels):
        present[index] = np.bincount(np.ravel(label), minlength=256) > 0
    return present[:, : int(present.any(0).nonzero()[0].max(initial=0)) + 1]


def joined(parts: Sequence[Rows]) -> Rows:
    """Join rows of one kind. Masks of classes are widened: what a part does not name is annotated, and not present."""
    result = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if name in _FILL:
            arrays = _widened(arrays, _FILL[name])
        result[name] = np.concatenate(arrays)
    return result


def _widened(masks: Sequence[np.ndarray], value: bool) -> list[np.ndarray]:
    width = max(mask.shape[1] for mask in masks)
    return [np.pad(mask, ((0, 0), (0, width - mask.shape[1])), constant_values=value) for mask in masks]


_FILL = {"present": False, "annotated": True}


def table_text(rows: Rows) -> str:
    """Return the lines of the table of slices, without its head; see `COLUMNS`."""
    classes = [" ".join(map(str, np.flatnonzero(mask))) for mask in rows["present"]]
    annotated = ["" if mask.all() else "".join("01"[int(known)] for known in mask) for mask in rows["annotated"]]
    text = io.StringIO()
    columns = (rows["patients"], rows["cases"], rows["slices"], rows["heights"].tolist(), classes, annotated)
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def rows_of_table(text: str) -> Rows:
    """Read what `table_text` wrote, after a head.

    Raises:
        ValueError, IndexError: it is not one.
    """
    lines = csv.reader(io.StringIO(text))
    if tuple(next(lines, ())) != COLUMNS:
        raise ValueError("not a table of slices")
    patients, cases, classes, annotated = (_Repeated() for _ in range(4))
    slices, heights = [], []
    for patient, case, number, height, held, told in lines:  # none is kept: a large bank has a million
        for column, word in ((patients, patient), (cases, case), (classes, held), (annotated, told)):
            column.add(word)
        slices.append(int(number))
        heights.append(float(height))
    present = np.zeros((len(classes.words), 256), bool)
    for index, word in enumerate(classes.words):
        present[index, [int(value) for value in word.split()]] = True
    known = np.ones((len(annotated.words), max(map(len, annotated.words), default=0)), bool)
    for index, word in enumerate(annotated.words):
        if word:
            known[index] = [digit == "1" for digit in word]
    return {
        "patients": np.array(list(patients.words))[patients.rows],
        "cases": np.array(list(cases.words))[cases.rows],
        "slices": np.array(slices),
        "heights": np.array(heights),
        "present": present[:, : int(present.any(0).nonzero()[0].max(initial=0)) + 1][classes.rows],
        "annotated": known[annotated.rows],
    }


class _Repeated:
    """A column of few words that come again and again: each is kept once.

    Attributes:
        words: and their places in the order in which they came.
    """

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self._places = array("q")

    def add(self, word: str) -> None:
        """Add a row."""
        self._places.append(self.words.setdefault(word, len(self.words)))

    @property
    def rows(self) -> np.ndarray:
        """[N], the place of each row's word."""
        return np.array(self._places)
