"""Mean Dice of whole volumes as an Ignite metric, for validation while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch.distributed as dist
from ignite.engine import Engine
from ignite.metrics import Metric

from ragsam.metrics.overlap import dice


class OrganDice(Metric):
    """Mean over organs of the mean Dice over volumes.

    An organ that is in neither reference nor prediction of a volume does not count there; one that is in only one of
    them counts 0, so that a missed organ is never dropped. An organ that the case does not annotate does not count
    there at all: the engine's batch tells it by "annotated", [K + 1] a volume.

    Args:
        num_classes: organs, without background.
        output_transform: gives (predictions, references), each a list of label volumes [1, H, W, D].
        gathered: whether several processes share the volumes out, whose scores are put together.

    Attributes:
        by_organ: [K], as `compute` last found them; None for an organ that did not occur.
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
        annotated = [item.get("annotated") for item in engine.state.batch]
        self.update((*self._output_transform(engine.state.output), annotated))

    def update(self, output: Sequence[Sequence[Any]]) -> None:
        """Add volumes: (predictions, references), and, if told, the classes that each annotates, None for all."""
        predictions, references, *told = output
        known = told[0] if told else [None] * len(predictions)
        for prediction, reference, annotated in zip(predictions, references, known, strict=True):
            ours, truth = (np.asarray(volume.cpu())[0].round() for volume in (prediction, reference))
            for organ, scores in enumerate(self.scores, start=1):
                if annotated is not None and not annotated[organ]:
                    continue
                mask, reference_mask = ours == organ, truth == organ
                if mask.any() or reference_mask.any():
                    scores.append(dice(reference_mask, mask))

    def compute(self) -> float:
        """Return the mean over the organs that occurred; 0 where none did."""
        shares = [self.scores]
        if self.gathered and idist.get_world_size() > 1:
            shares = [None] * idist.get_world_size()
            dist.all_gather_object(shares, self.scores)
        together = [[score for share in shares for score in share[organ]] for organ in range(self.num_classes)]
        self.by_organ = [float(np.mean(scores)) if scores else None for scores in together]
        means = [mean for mean in self.by_organ if mean is not None]
        return float(np.mean(means)) if means else 0.0
