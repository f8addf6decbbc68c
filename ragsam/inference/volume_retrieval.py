"""Retrieval handlers: they drive the network's retrieval from Ignite.

In training the handler searches the bank of the training patients and injects the supports into the batch. On whole
volumes the network looks its supports up itself, slice by slice; the handler tells it whose slices to leave out, and
writes down what was found.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from ragsam.files import write_json_atomic
from ragsam.inference.bank_building import bank_fit
from ragsam.networks.segmenter import Segmenter
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.novelty import Novelty, novelty
from ragsam.retrieval.retriever import Neighbours, Retriever

logger = logging.getLogger(__name__)


class VolumeRetrieval:
    """Lets the network retrieve for whole volumes, one at a time, the volume's own patient left out.

    Args:
        network: the segmenter.
        retriever: searches.
        bank: folder of a bank to open at the start; None uses the bank that the retriever has (in training).
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

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator; after the handler that loads the weights."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.before_case)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.after_case)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: Engine) -> None:
        """Open the bank and switch the network's retrieval on."""
        if self.bank is not None:
            self.retriever.attach(Bank.open(self.bank, bank_fit(self.retriever, self.network, self.preparation)))
        self.retriever.record = self.trace_path is not None
        self.cases = {}
        self.network.lookup = self.retriever

    def before_case(self, engine: Engine) -> None:
        """Name the patient whose slices are left out."""
        batch = engine.state.batch
        self.retriever.query = (batch["patient"][0], batch["case"][0])
        self.retriever.trace = []

    def after_case(self, engine: Engine) -> None:
        """Note the neighbours of the case just segmented."""
        if self.trace_path is None or self.retriever.bank is None:
            return
        case, new = self.retriever.query[1], trace_novelty(self.retriever.bank, self.retriever.trace)
        if new is not None and new.flagged:
            told = "%s: unlike the bank's volumes (nearest slices at a distance of %.3f, p = %.1g); check its labels"
            logger.warning(told, case, new.score, new.p_value)
        slices = slices_of_trace(self.retriever)
        if not any(slices.values()):
            logger.warning("%s: the bank has no slice of another patient; none votes", case)
        self.cases[case] = {
            "orientation": "RAS",
            "axis": self.preparation.get("slice_axis", 2),
            "novelty": None if new is None else new.as_json(),
            "slices": slices,
        }

    def finish(self, engine: Engine) -> None:
        """Write the trace and switch the network's retrieval off."""
        self.network.lookup = None
        bank = self.retriever.bank
        if self.trace_path is not None and bank is not None:
            fingerprint = hashlib.sha256(bank.descriptors.tobytes()).hexdigest()[:16]
            about = {"slices": len(bank), "patients": bank.patient_count, "fingerprint": fingerprint}
            write_json_atomic(self.trace_path, {"bank": about, "cases": self.cases})

    def fail(self, engine: Engine, error: Exception) -> None:
        """Switch the network's retrieval off and pass the error on."""
        self.network.lookup = None
        raise error


def trace_novelty(bank: Bank, trace: Sequence[tuple[np.ndarray, Neighbours]]) -> Novelty | None:
    """Rank a volume by what was found for its slices: pairs of heights [B] and neighbours; None where nothing was."""
    heights = [float(height) for block, _ in trace for height in block]
    nearest = [found.similarity.max(1, initial=-np.inf, where=found.rows >= 0) for _, found in trace]
    return novelty(heights, np.concatenate(nearest), bank.scores.values()) if nearest else None


def slices_of_trace(retriever: Retriever) -> dict[str, list[dict[str, Any]]]:
    """Return the neighbours by slice number. Of a slice's windows the first one's are kept."""
    heights = [float(h) for block, _ in retriever.trace for h in block]
    index_of = {height: index for index, height in enumerate(sorted(set(heights)))}
    slices: dict[int, list[dict[str, Any]]] = {}
    for block, found in retriever.trace:
        for position, height in enumerate(block):
            slices.setdefault(index_of[float(height)], _neighbours(retriever.bank, found, position))
    return {str(index): slices[index] for index in sorted(slices)}


def _neighbours(bank: Bank, found: Neighbours, position: int) -> list[dict[str, Any]]:
    # Candidates that were left out have no weight.
    rows = [int(row) for row, weight in zip(found.rows[position], found.weights[position], strict=True) if weight > 0]
    return [
        {
            "patient": str(bank.patients[row]),
            "case": str(bank.cases[row]),
            "slice": int(bank.slices[row]),
            "similarity": round(float(found.similarity[position, rank]), 4),
            "weight": round(float(found.weights[position, rank]), 4),
            "row": row,
        }
        for rank, row in enumerate(rows)
    ]
