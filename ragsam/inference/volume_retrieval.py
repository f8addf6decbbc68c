"""The retrieval handler of whole volumes: it puts a volume's supports into the batch and writes down what was found."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ragsam.files import write_json_atomic
from ragsam.inference.bank_building import attach_bank, finds_bank
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.networks.segmenter import Segmenter
from ragsam.outputs import Outputs
from ragsam.retrieval.retriever import Retriever
from ragsam.transforms.layout import axis_across, orientation_of

logger = logging.getLogger(__name__)


class VolumeRetrieval:
    """Puts `supports` into every batch of an evaluator, which is one volume; its own patient is left out.

    The evaluator hands them to its inferer by `prepare_volumes`.

    Args:
        network: the segmenter.
        retriever: searches.
        bank: folder of a bank to open at the start, if there is one; None uses the retriever's (in training).
        preparation: how slices are prepared; a bank made otherwise is refused.
        trace_path: where to write what was found, as JSON; None writes nothing.

    Raises:
        InputError: at the start, where the bank is damaged or made for something else.
    """

    def __init__(
        self,
        network: Segmenter,
        retriever: Retriever,
        *,
        bank: str | os.PathLike[str] | None = None,
        preparation: dict[str, Any] | None = None,
        trace_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.network = network
        self.retriever = retriever
        self.bank = bank
        self.preparation = preparation or {}
        self.trace_path = Path(trace_path) if trace_path else None
        self.cases: dict[str, Any] = {}
        self._supports: VolumeSupports | None = None
        self._axis = 2
        self._outputs: Outputs | None = None

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator; after the handler that loads the weights."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.inject)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.note)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Open the bank; without one, volumes are segmented without."""
        if self.bank is not None and finds_bank(self.bank):
            attach_bank(self.retriever, self.network, self.bank, self.preparation)
        self.cases = {}
        self._outputs = None
        if self.trace_path is not None and self.retriever.bank is not None:
            self._outputs = Outputs.of_file(self.trace_path)

    def inject(self, engine: Engine) -> None:
        """Put the supports of the volume at hand into the batch; None if there is no bank."""
        batch = engine.state.batch
        self._supports = None
        if self.retriever.bank is not None:
            self._supports = VolumeSupports(self.retriever, batch["patient"][0], batch["case"][0])
            self._axis = self.preparation.get("slice_axis", 2)
            if self.preparation.get("slice_layout") == "file":
                self._axis = axis_across(orientation_of(batch["image"]))
        batch["supports"] = self._supports

    def note(self, engine: Engine) -> None:
        """Note the neighbours of the volume just segmented."""
        if self.trace_path is None or self._supports is None:
            return
        case, new = self._supports.query[1], self._supports.novelty()
        if new is not None and new.flagged:
            told = "%s: unlike the bank's volumes (nearest slices at a distance of %.3f, p = %.1g); check its labels"
            logger.warning(told, case, new.score, new.p_value)
        slices = self._supports.by_slice()
        if not any(slices.values()):
            logger.warning("%s: the bank has no slice of another patient; no label votes", case)
        self.cases[case] = {
            "orientation": "RAS",
            "axis": self._axis,
            "novelty": None if new is None else new.as_json(),
            "slices": slices,
        }

    def finish(self, engine: Engine) -> None:
        """Write the trace; close the bank that was opened at the start."""
        bank = self.retriever.bank
        if self._outputs is not None and self.trace_path is not None:  # the first process alone has both
            fingerprint = hashlib.sha256(bank.descriptors.tobytes()).hexdigest()[:16]
            about = {"slices": len(bank), "patients": bank.patient_count, "fingerprint": fingerprint}
            write_json_atomic(self.trace_path, {"bank": about, "cases": self.cases})
            self._outputs.settle()
        if self.bank is not None:
            self._supports = None
            self.retriever.detach()
