"""What a run's metadata.json says beyond its template: data set, versions, and what its weights were worth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ragsam.data.data_fingerprint import data_fingerprint
from ragsam.data.datalist import Case
from ragsam.files import read_json, write_json_atomic
from ragsam.networks.checkpoints import load_metadata
from ragsam.runs.metadata import installed_versions
from ragsam.training.organ_dice import OrganDice


class RunMetadata:
    """Writes into a run's metadata what its weights were worth and what they saw, whenever new weights are kept.

    Stands behind `BestWeights`. Of several processes the first writes. Weights that lie outside of the bundle leave its
    metadata as they are.

    Args:
        path: `configs/metadata.json` of the bundle.
        weights: `models/model.safetensors`, whose own score tells whether it was just written.
        dice: the key metric, which knows its organs.
        metric: its name.
        organs: names, in order.
        training, validation: cases, for the fingerprints.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        weights: str | os.PathLike[str],
        dice: OrganDice,
        *,
        metric: str,
        organs: Sequence[str],
        training: Sequence[Case],
        validation: Sequence[Case],
    ) -> None:
        self.path = Path(path)
        self.weights = Path(weights)
        self.dice = dice
        self.metric = metric
        self.organs = list(organs)
        self.data = {"training": training, "validation": validation}
        self._fingerprint: dict[str, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.COMPLETED, self.write)

    def write(self, engine: Engine) -> None:
        """Write the scores of the validation that has just kept its weights."""
        if idist.get_rank() != 0 or self.path.resolve().parents[1] != self.weights.resolve().parents[1]:
            return
        score = round(float(engine.state.metrics[self.metric]), 6)
        if not self.weights.is_file() or load_metadata(self.weights).get(self.metric) != score:
            return
        if self._fingerprint is None:
            self._fingerprint = {name: data_fingerprint(cases) for name, cases in self.data.items()}
        by_organ = {
            f"val_dice_{name}": round(value, 6)
            for name, value in zip(self.organs, self.dice.by_organ, strict=True)
            if value is not None
        }
        content = read_json(self.path)
        content |= {"eval_metrics": {self.metric: score, **by_organ}, "data_fingerprint": self._fingerprint}
        write_json_atomic(self.path, {**content, **installed_versions(content)})
