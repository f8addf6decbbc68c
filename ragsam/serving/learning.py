"""A served run's bank learns from the labels that come back, at once, and forgets those that are removed."""

from __future__ import annotations

import logging
import os
import threading
from typing import Protocol

from ragsam.data.served import as_cases, case_name
from ragsam.errors import InputError
from ragsam.inference.bank_growth import forget_patient, learn_case, with_its_organs
from ragsam.runs.run import BANK, RunFolder

logger = logging.getLogger(__name__)

#: The tag of labels that a person has submitted; what the server drafts itself has another.
FINAL = "final"
_LOCK = threading.Lock()


class Datastore(Protocol):
    """The part of MONAI Label's `Datastore` that is used."""

    def get_image_uri(self, image_id: str) -> str: ...
    def get_label_by_image_id(self, image_id: str, tag: str) -> str: ...
    def get_label_uri(self, label_id: str, label_tag: str) -> str: ...


class LearningBank:
    """The bank of a served run. Each image is taken for a patient of its own, as everywhere in a server.

    Args:
        run: the served run, with its bank.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = RunFolder(run)
        self.folder = self.run.path / BANK

    def learn(self, store: Datastore, image_id: str) -> str:
        """Put an image with its final label into the bank; return what came of it, nothing without one.

        Of organs that the label does not have nothing is voted: they may not have been drawn. A label that the bank
        refuses stays saved.
        """
        label_id = store.get_label_by_image_id(image_id, FINAL)
        if not label_id:
            return ""
        paths = {"image": store.get_image_uri(image_id), "label": store.get_label_uri(label_id, FINAL)}
        try:
            (case,) = as_cases([paths])
            with _LOCK:
                manifest = learn_case(self.run, self.folder, with_its_organs(case, self.run.card.labels))
        except InputError as error:
            logger.warning("bank: the label is saved, but not learnt from: %s", error)
            return f"not learnt from: {error}"
        return f"learnt; {manifest['slices']} slices of {manifest['patients']} patients"

    def forget(self, store: Datastore, label_id: str, label_tag: str) -> None:
        """Take an image whose final label was removed out of the bank."""
        path = store.get_image_uri(label_id) if label_tag == FINAL else ""
        if not path:
            return
        try:
            with _LOCK:
                forget_patient(self.run, self.folder, str(case_name(path)))
        except InputError as error:
            logger.warning("bank: the label is removed, but the bank stays as it is: %s", error)
