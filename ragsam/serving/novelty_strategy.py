"""Active learning in MONAI Label: the image least like the bank is labelled next."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ragsam.data.served import case_name
from ragsam.inference.novelty_ranking import rank_volumes
from ragsam.retrieval.bank_manifest import MANIFEST
from ragsam.runs.run import BANK

logger = logging.getLogger(__name__)

_Stamp = tuple[str, int, int]


class Datastore(Protocol):
    """The part of MONAI Label's `Datastore` that is used."""

    def get_unlabeled_images(self, label_tag: str | None = None, labels: Sequence[str] | None = None) -> list[str]: ...
    def get_image_uri(self, image_id: str) -> str: ...


class NoveltyStrategy:
    """Chooses the unlabelled image that `ragsam rank` puts first; has the interface of MONAI Label's `Strategy`.

    An image is scored once, and again when its file or the bank has changed.

    Args:
        run: the served run, with its bank.
    """

    description = "The image least like the bank"

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = Path(run)
        self._scores: dict[_Stamp, float | None] = {}
        self._lock = threading.Lock()

    def info(self) -> dict[str, Any]:
        """Return the strategy's description for the server."""
        return {"description": self.description}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return {"id", "novelty"} of the most novel image; None if no readable image is left.

        Args:
            request: `label_tag` and `labels` define what counts as labelled, as for MONAI Label's own strategies.
            datastore: the images.

        Raises:
            InputError: a bank that does not fit the run.
        """
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        with self._lock:
            scores = self._score({image: datastore.get_image_uri(image) for image in sorted(images)})
        if not scores:
            return None
        image = max(scores, key=scores.get)
        return {"id": image, "novelty": scores[image]}

    def _score(self, paths: dict[str, str]) -> dict[str, float]:
        """Return the scores by image, of those that can be read."""
        bank_stamp = (self.run / BANK / MANIFEST).stat().st_mtime_ns
        stamps = {}
        new = {}
        for image, path in paths.items():
            stamp = (path, Path(path).stat().st_mtime_ns, bank_stamp)
            stamps[image] = stamp
            if stamp not in self._scores:
                new[path] = stamp
        if new:
            ranking, faults = rank_volumes(self.run, list(new))
            for fault in faults:
                logger.warning("novelty: %s; the image is left out", fault)
            found = {entry["case"]: entry["score"] for entry in ranking}
            for path, stamp in new.items():
                self._scores[stamp] = found.get(str(case_name(path)))
        scores = {}
        for image, stamp in stamps.items():
            if self._scores[stamp] is not None:
                scores[image] = self._scores[stamp]
        return scores
