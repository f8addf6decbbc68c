"""The weight of the neighbours' vote beside the network, chosen on the validation patients."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ragsam.data.slices import SliceDataset
from ragsam.networks.segmenter import Segmenter
from ragsam.networks.vote_product import multiplied
from ragsam.retrieval.agreement_measurement import overlaps
from ragsam.retrieval.retriever import Retriever

logger = logging.getLogger(__name__)

#: The weights that are tried; the smallest of equally good ones is chosen.
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
#: Validation slices that are segmented, evenly spaced, and their batch size.
SLICES = 160
BATCH = 8
#: With fewer validation patients the weight stays as it is.
FEWEST = 2


class VoteWeight:
    """Sets the weight of a network's `VoteProduct` before every validation.

    On evenly spaced slices of the validation patients the weight is chosen that gives the highest Dice, a mean over
    organs of the mean over patients; so a network that has learnt much from many patients hardly uses its neighbours.
    The validation's own score is then that of the weight which the weights file keeps. With a single validation patient
    the weight stays as it is: 1.

    Args:
        network: the segmenter that trains.
        retriever: with a bank, or nothing is chosen.
        slices: makes the slices of the validation patients, without augmentation; called at the first validation that
            has a bank.

    Attributes:
        seconds: what the last choice took, the slices' making left out.
    """

    def __init__(self, network: Segmenter, retriever: Retriever, slices: Callable[[], SliceDataset]) -> None:
        self.network = network
        self.retriever = retriever
        self.make_slices = slices
        self.slices: SliceDataset | None = None
        self.seconds = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self.choose)

    def choose(self, engine: Engine) -> None:
        """Try the weights and set the best."""
        if self.retriever.bank is None:
            return
        if self.slices is None:
            self.slices = self.make_slices()
        if len({case.patient for case in self.slices.cases}) < FEWEST:
            return
        start = time.monotonic()
        scores = self._scores()
        self.seconds = time.monotonic() - start
        best = max(scores, key=scores.get)  # the first of equal ones
        self.network.fusion.vote_product.weight.fill_(best)
        count = min(SLICES, len(self.slices))
        text = "validation: the neighbours' vote weighs %g: Dice %.4f in %d slices (%.4f without, %.4f with 1)"
        logger.info(text, best, scores[best], count, scores[0.0], scores[1.0])

    @torch.no_grad()
    def _scores(self) -> dict[float, float]:
        """Return the mean Dice of every weight."""
        network = self.network
        training = network.training
        device = next(network.parameters()).device
        product = network.fusion.vote_product
        count = min(SLICES, len(self.slices))
        chosen = np.linspace(0, len(self.slices) - 1, count).round().astype(int).tolist()
        empty = torch.zeros(len(WEIGHTS), 3, network.num_classes + 1, dtype=torch.float64)
        counts: dict[str, Tensor] = defaultdict(empty.clone)
        network.eval()
        product.weight.zero_()
        for batch in DataLoader(Subset(self.slices, chosen), BATCH, generator=torch.Generator()):
            image = batch["image"].to(device)
            embedded = network.embed(image)
            queries = list(zip(batch["patient"], batch["case"], strict=True))
            near = self.retriever.find(image, embedded.embedding, batch["height"], queries)
            supports = self.retriever.weighed(self.retriever.supports(near, image)[0])
            logits = network.decode(embedded, supports)
            evidence = product.evidence(supports, tuple(logits.shape[-2:]))
            truth = batch["label"][:, 0].to(device)
            for index, weight in enumerate(WEIGHTS):
                found = multiplied(logits, weight * evidence).argmax(1)
                counted = overlaps(found, truth, network.num_classes + 1) * batch["annotated"][:, None]
                for place, patient in enumerate(batch["patient"]):
                    counts[patient][index] += counted[place]
        network.train(training)
        both, found, truth = torch.stack(list(counts.values())).unbind(2)  # each [patients, weights, K + 1]
        dice = torch.where(found + truth > 0, 2 * both / (found + truth), torch.nan)[..., 1:]
        means = dice.nanmean(0).nanmean(1)
        return dict(zip(WEIGHTS, means.nan_to_num(0.0).tolist(), strict=True))
