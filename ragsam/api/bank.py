"""The support bank of a run, in Python."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.api.datalists import as_datalist
from ragsam.api.index import prune_bank, write_bank
from ragsam.data.datalist import Case
from ragsam.retrieval.bank_manifest import read_manifest
from ragsam.runs.run import RunFolder


class RunBank:
    """The support bank of a run: what it holds, and what may be added to it.

    Args:
        run: whose it is.
        changed: gives what is called when the bank has changed; weak, so that a run goes when nobody has it.

    Attributes:
        path: its folder.

    Examples:
        >>> import ragsam
        >>> bank = ragsam.load("runs/hippocampus").bank
        >>> bank.manifest["patients"]
        4
        >>> case = {"case": "new", "patient": "new", "image": "mr.nii.gz", "label": "labels/mr.nii.gz"}
        >>> bank.add([case])["patients"]
        5
        >>> bank.remove(["new"])["patients"]
        4
    """

    def __init__(self, run: RunFolder, changed: Callable[[], Callable[[], None] | None]) -> None:
        self.path = run.bank
        self._run = run
        self._changed = changed

    def _tell(self) -> None:
        if whose := self._changed():
            whose()

    @property
    def manifest(self) -> dict[str, Any]:
        """How many `slices` of how many `patients` it holds, what it was made for, how well it agrees with itself.

        Raises:
            InputError: there is no bank.
        """
        return read_manifest(self.path)

    def add(
        self, cases: str | os.PathLike[str] | Sequence[Case | Mapping[str, Any]], *, section: str = "training"
    ) -> dict[str, Any]:
        """Put labelled cases beside those of the bank, as `ragsam index --add` does; return the bank's manifest.

        Args:
            cases: a datalist, of which `section` is taken; or cases {"case", "patient", "image", "label"}.

        Raises:
            InputError: no bank, cases that are in it, or faulty ones.
        """
        with tempfile.TemporaryDirectory(prefix="ragsam-") as folder:
            datalist = as_datalist(cases, self._run, section, Path(folder))
            manifest = write_bank(self._run.path, self.path, add=datalist, section=section)
        self._tell()
        return manifest

    def remove(self, patients: Sequence[str]) -> dict[str, Any]:
        """Take patients out of the bank, by their keys; return its manifest.

        Raises:
            InputError: no bank, or patients that it does not hold.
        """
        manifest = prune_bank(self._run.path, self.path, patients)
        self._tell()
        return manifest
