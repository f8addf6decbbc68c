"""What a run's metadata.json adds to its template: the data, the versions, and the scores of the weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ragsam.data.data_fingerprint import data_fingerprint
from ragsam.data.datalist import Case
from ragsam.files import write_json_atomic
from ragsam.networks.checkpoints import load_metadata
from ragsam.outputs import Outputs
from ragsam.runs.metadata import installed_versions, read_metadata
from ragsam.training.organ_dice import OrganDice


class RunMetadata:
    """Writes the weights' scores and data into a run's metadata whenever new weights are kept.

    Attached after `BestWeights`; only the first process writes. Weights outside the bundle leave its metadata as it is.

    Args:
        path: `configs/metadata.json` of the bundle.
        weights: `models/model.safetensors`, whose own score says whether it was just written.
        dice, metric: the key metric and its name.
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
        self.training = training
        self.validation = validation

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.COMPLETED, self.write)

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        return {"training": data_fingerprint(self.training), "validation": data_fingerprint(self.validation)}

    def write(self, engine: Engine) -> None:
        """Write the scores of the validation that has just kept its weights."""
        bundle = self.path.resolve().parents[1]
        if idist.get_rank() > 0 or self.weights.resolve().parents[1] != bundle:
            return
        score = round(float(engine.state.metrics[self.metric]), 6)
        if not self.weights.is_file() or load_metadata(self.weights).get(self.metric) != score:
            return
        scores = {self.metric: score}
        for name, dice in zip(self.organs, self.dice.by_organ, strict=True):
            if dice is not None:
                scores[f"val_dice_{name}"] = round(dice, 6)
        content = read_metadata(self.path)
        content["eval_metrics"] = scores
        content["data_fingerprint"] = self._fingerprint
        content |= installed_versions(content)
        with Outputs(bundle, ["configs/metadata.json"], overwrite=True):  # a training killed now may start again
            write_json_atomic(self.path, content)
