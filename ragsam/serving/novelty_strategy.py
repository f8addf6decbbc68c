"""Active learning in MONAI Label: the image that is most unlike the bank is labelled next."""

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
    """What is asked of MONAI Label's `Datastore`."""

    def get_unlabeled_images(self, label_tag: str | None = None, labels: Sequence[str] | None = None) -> list[str]: ...
    def get_image_uri(self, image_id: str) -> str: ...


class NoveltyStrategy:
    """Chooses the unlabelled image that `ragsam rank` puts first; a `Strategy` by MONAI Label's names.

    An image is scored once, and again where its file or the bank is another one.

    Args:
        run: the served run, with its bank.
    """

    description = "The image that is most unlike the bank"

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = Path(run)
        self._scores: dict[_Stamp, float | None] = {}
        self._lock = threading.Lock()

    def info(self) -> dict[str, Any]:
        """Return what the server tells of the strategy."""
        return {"description": self.description}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return {"id", "novelty"} of the most novel image; None where no image is left that can be read.

        Args:
            request: `label_tag` and `labels` say what counts as labelled, as for MONAI Label's own strategies.
            datastore: the images.

        Raises:
            InputError: a bank that does not fit the run.
        """
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        with self._lock:
            scores = self._score({image: datastore.get_image_uri(image) for image in sorted(images)})
        if not scores:
            return None
        image = max(scores, key=lambda name: scores[name])
        return {"id": image, "novelty": scores[image]}

    def _score(self, paths: dict[str, str]) -> dict[str, float]:
        """Return the scores by image, of those that can be read."""
        bank = (self.run / BANK / MANIFEST).stat().st_mtime_ns
        stamps = {image: (path, Path(path).stat().st_mtime_ns, bank) for image, path in paths.items()}
        new = [path for image, path in paths.items() if stamps[image] not in self._scores]
        ranking, faults = rank_volumes(self.run, new) if new else ([], [])
        for fault in faults:
            logger.warning("novelty: %s; the image is left out", fault)
        found = {entry["case"]: entry["score"] for entry in ranking}
        for image, path in paths.items():
            if path in new:
                self._scores[stamps[image]] = found.get(str(case_name(path)))
        scores = {image: self._scores[stamp] for image, stamp in stamps.items()}
        return {image: score for image, score in scores.items() if score is not None}
