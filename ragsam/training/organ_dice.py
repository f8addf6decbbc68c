"""Mean Dice of whole volumes as an Ignite metric, for validation while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch.distributed as dist
from ignite.engine import Engine
from ignite.metrics import Metric

from ragsam.metrics.overlap import dice


class OrganDice(Metric):
    """Mean over organs of the mean Dice over volumes.

    An organ in neither reference nor prediction of a volume does not count there; one in only one of them scores 0, so
    that a missed organ is never dropped. An organ that a case does not annotate does not count there: the engine's
    batch has "annotated", [K + 1], for each volume.

    Args:
        num_classes: organs, without background.
        output_transform: gives (predictions, references), each a list of label volumes [1, H, W, D].
        gathered: whether the volumes are shared among several processes, whose scores are put together.

    Attributes:
        by_organ: [K], from the last `compute`; None for an organ that did not occur.
    """

    def __init__(self, num_classes: int, output_transform: Callable[[Any], Any], *, gathered: bool = False) -> None:
        self.num_classes = num_classes
        self.gathered = gathered
        self.by_organ: list[float | None] = []
        self.scores: list[list[float]] = []
        super().__init__(output_transform)

    def reset(self) -> None:
        """Forget all volumes."""
        self.scores = [[] for _ in range(self.num_classes)]

    def iteration_completed(self, engine: Engine) -> None:
        """Add the volumes of the engine's batch."""
        predictions, references = self._output_transform(engine.state.output)
        annotated = [item["annotated"] for item in engine.state.batch]
        self.update((predictions, references, annotated))

    def update(self, output: Sequence[Sequence[Any]]) -> None:
        """Add volumes: (predictions, references), and the classes [K + 1] that each annotates, if not all."""
        predictions, references, *rest = output
        everything = np.ones((len(predictions), self.num_classes + 1), bool)
        (annotated,) = rest or [everything]
        for prediction, reference, known in zip(predictions, references, annotated, strict=True):
            labels = np.asarray(prediction.cpu())[0].round()
            reference_labels = np.asarray(reference.cpu())[0].round()
            for organ, scores in enumerate(self.scores, start=1):
                mask = labels == organ
                reference_mask = reference_labels == organ
                if known[organ] and (mask | reference_mask).any():
                    scores.append(dice(reference_mask, mask))

    def compute(self) -> float:
        """Return the mean over the organs that occurred; 0 where none did."""
        processes = idist.get_world_size()
        shares = [self.scores]
        if self.gathered and processes > 1:
            shares = [None] * processes
            dist.all_gather_object(shares, self.scores)
        self.by_organ = [None] * self.num_classes
        occurred = []
        for organ, parts in enumerate(zip(*shares, strict=True)):
            scores = list(chain.from_iterable(parts))
            if scores:
                self.by_organ[organ] = float(np.mean(scores))
                occurred.append(self.by_organ[organ])
        if not occurred:
            return 0.0
        return float(np.mean(occurred))
