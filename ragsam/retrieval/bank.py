"""The support bank: labelled slices of many patients, with the descriptors by which they are found.

On disk a bank is a folder of parts: what was indexed at once is a part, and a bank grows by another one.
`manifest.json` names the files of all parts with their SHA-256, ends with its own, and is replaced last, so that a
killed writer leaves the old bank or the new one. Patients and cases appear under pseudonyms: a salted slow hash of
their key. Whoever has the bank can try keys, one after the other: it is not secret who is in a bank.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ragsam.errors import InputError
from ragsam.retrieval.agreement import Agreement
from ragsam.retrieval.bank_arrays import PartedArray
from ragsam.retrieval.bank_manifest import REMAKE, read_manifest, read_rows
from ragsam.retrieval.bank_rows import Rows, classes_present, joined, new_salt, pseudonym, rows_of_batch
from ragsam.retrieval.bank_writer import BankWriter
from ragsam.retrieval.novelty import bank_scores

__all__ = ["Bank", "pseudonym"]


@dataclass
class Bank:
    """Labelled slices in the order of their rows.

    Attributes:
        descriptors: [N, D], float32, unit length.
        labels: [N, S, S], uint8, on the network's own grid.
        patients, cases: [N], pseudonyms.
        slices: [N], index of the slice in its volume, oriented to RAS.
        heights: [N], 0-1, of the slice in its volume.
        fit: what a user of the bank must share with it: card, labels, preprocessing, descriptor and, where the
            descriptor needs it, the encoder's fingerprint.
        salt: of the pseudonyms.
        annotated: [N, K + 1], bool, the classes that each slice's case annotates; None if every case annotates all.
        images: [N, s, s], uint8, the slice's middle channel, 0-1 scaled to 0-255; None if they are not kept.
        present: [N, C], bool, the classes of which the slice has a pixel; None finds it out.
        stored_scores: `scores` as a manifest has them; None works them out when they are asked for.
        agreement: of the bank with itself; None if it has not been measured, see `Retriever.agreement`.
    """

    descriptors: np.ndarray
    labels: np.ndarray | PartedArray
    patients: np.ndarray
    cases: np.ndarray
    slices: np.ndarray
    heights: np.ndarray
    fit: dict[str, Any]
    salt: str = field(default_factory=new_salt)
    annotated: np.ndarray | None = None
    images: np.ndarray | PartedArray | None = None
    present: np.ndarray | None = None
    stored_scores: dict[str, float] | None = None
    agreement: Agreement | None = None

    def __post_init__(self) -> None:
        if self.present is None:
            self.present = classes_present(self.labels)

    def __len__(self) -> int:
        return len(self.descriptors)

    @property
    def keeps(self) -> tuple[str, ...]:
        """The arrays that not every bank holds, and this one does."""
        return () if self.images is None else ("images",)

    @classmethod
    def collect(cls, batches: Iterable[Mapping[str, Any]], fit: dict[str, Any], keeps: Sequence[str] = ()) -> Bank:
        """Make a bank in memory of batches as `rows_of_batch` takes them.

        Args:
            fit: what it is made for.
            keeps: of `OPTIONAL`, what the bank is to hold.

        Raises:
            InputError: an item without patient, or no item at all.
        """
        salt = new_salt()
        parts = [rows_of_batch(batch, salt, keeps) for batch in batches]
        if not parts:
            raise InputError("bank: no labelled slice to put in; check the datalist's training section")
        return cls._of_rows(joined(parts), fit=fit, salt=salt)

    @classmethod
    def _of_rows(cls, rows: Rows, **about: Any) -> Bank:
        annotated = rows.pop("annotated")
        return cls(**rows, annotated=None if annotated.all() else annotated, **about)

    def own_patients(self, patient: str | None, case: str | None) -> set[str]:
        """Return the pseudonyms under which a query's patient may stand: by its key, and by a case of that name."""
        own = {pseudonym(patient, self.salt, "p")} if patient else set()
        if case:
            own |= set(self.patients[self.cases == pseudonym(case, self.salt, "c")].tolist())
        return own

    def allowed(self, *, without: Collection[str]) -> np.ndarray | None:
        """Return the rows that a search may find, as a mask [N]; None if nothing limits it.

        Args:
            without: pseudonyms of patients to leave out.
        """
        names, codes = self._patient_codes
        left_out = np.isin(names, list(without))
        return ~left_out[codes] if left_out.any() else None

    @cached_property
    def scores(self) -> dict[str, float]:
        """How far the bank's own volumes lie from those of other patients, by case; see `bank_scores`."""
        if self.stored_scores is not None:
            return self.stored_scores
        return bank_scores(self.descriptors, self.patients, self.cases, self.slices)

    @cached_property
    def _patient_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """The patients' pseudonyms, and which of them each row has."""
        return np.unique(self.patients, return_inverse=True)

    @property
    def patient_count(self) -> int:
        """How many patients there are."""
        return len(self._patient_codes[0])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the bank into `folder`; an older bank there is replaced whole.

        Raises:
            InputError: the folder cannot be written, or another process writes to it.
        """
        with BankWriter(folder, self.fit, keeps=self.keeps, salt=self.salt) as writer:
            for start in range(0, len(self), 1024):
                writer.append(self._block(slice(start, start + 1024)))
            writer.commit()

    def _block(self, rows: slice) -> Rows:
        names = ("descriptors", "labels", "patients", "cases", "slices", "heights", "present", *self.keeps)
        block = {name: np.asarray(getattr(self, name)[rows]) for name in names}
        empty = np.ones((len(block["slices"]), 0), bool)
        return {**block, "annotated": empty if self.annotated is None else self.annotated[rows]}

    @classmethod
    def open(cls, folder: str | os.PathLike[str], fit: Mapping[str, Any] | None = None) -> Bank:
        """Open a bank, all but the descriptors memory-mapped, after every file's SHA-256 is found right.

        A writer who replaces the bank meanwhile does not matter: what is opened is the old bank or the new one.

        Args:
            fit: what the bank must have been made for; None takes any.

        Raises:
            InputError: no bank, a damaged one, or one made for something else.
        """
        folder = Path(folder)
        while True:
            manifest = read_manifest(folder, fit)
            try:
                return cls.of_manifest(folder, manifest)
            except InputError:
                if read_manifest(folder, fit) == manifest:
                    raise

    @classmethod
    def of_manifest(cls, folder: Path, manifest: Mapping[str, Any]) -> Bank:
        """Open the files that a manifest names, whether it stands in the folder yet or not; see `open`."""
        return cls._of_rows(
            read_rows(folder, manifest),
            fit=manifest["fit"],
            salt=manifest["salt"],
            stored_scores=manifest.get("scores"),
            agreement=_agreement(folder, manifest),
        )


def _agreement(folder: Path, manifest: Mapping[str, Any]) -> Agreement | None:
    if "agreement" not in manifest:
        return None
    content = manifest["agreement"]
    if isinstance(content, dict) and content.keys() < {part.name for part in fields(Agreement)}:
        return None  # of an older version, which did not measure all
    try:
        return Agreement.of_json(content)
    except ValueError as error:
        raise InputError(f"bank {folder.name}: its agreement is damaged; {REMAKE}") from error
