"""Several runs as one: their probabilities are averaged on the image's own grid, whatever axis they slice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case
from ragsam.data.file_orientation import slices_orientation
from ragsam.errors import InputError
from ragsam.inference.loaded_run import LoadedRun
from ragsam.inference.volume_inferer import SLAB, Slab
from ragsam.runs.config_safety import sound_run
from ragsam.transforms.layout import DEFAULT_LAYOUT, orientation_of, pair_of
from ragsam.transforms.slicing import SLICE_AXCODES


class Ensemble:
    """Lets an evaluator average its run's probabilities with those of other runs.

    It puts `average` into every batch, which the evaluator hands to its inferer by `prepare_volumes`.

    Each run prepares the volume in its own way and slices it along its own axis. Runs of one axis go through it side by
    side, each with its own volume, 4 bytes per voxel. With several axes, or if it takes less memory for many runs, the
    mean is kept as float16, 2 (K + 1) bytes per voxel (1.1 GB for 512 x 512 x 150 and 13 organs), and runs go one after
    the other. Logits exist for a slab at a time.

    Args:
        runs: folders of the others.
        cases: to be segmented.
        card, slice_axis: of the run that segments.
        device: where the others run.
        retrieval: False switches their retrieval off too; else it is as each was trained.

    Raises:
        InputError: at the start, if a run might run code of its own, lacks weights, or is for other organs.
    """

    def __init__(
        self,
        runs: Sequence[str | os.PathLike[str]],
        cases: Sequence[Case],
        *,
        card: Card,
        device: torch.device | str,
        slice_axis: int = 2,
        retrieval: bool = True,
    ) -> None:
        self.runs = [Path(run).absolute() for run in runs]
        self.cases = list(cases)
        self.card = card
        self.axcodes = SLICE_AXCODES[slice_axis]
        self.overrides = {"device": device, **({} if retrieval else {"retrieval": False})}
        self.members: list[Member] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self.inject)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Load the other runs."""
        self.members = [Member(run, self.cases, self.card, self.overrides) for run in self.runs]

    def inject(self, engine: Engine) -> None:
        """Put the function that averages the volume at hand into the batch."""
        batch = engine.state.batch
        batch["average"] = partial(self.average, batch["case"][0])

    def finish(self, engine: Engine) -> None:
        """Release the other runs."""
        for member in self.members:
            member.run.forget_bank()
        self.members = []

    def average(self, case: str, slabs: Iterator[Slab], volume: Tensor) -> Iterator[Slab]:
        """Return the logarithms of the mean probabilities of all runs, slab by slab of a case's volume [1, H, W, D]."""
        own = orientation_of(volume) or self.axcodes
        axes = {member.axcodes(case) for member in self.members}
        volumes_bytes = 4 * (len(self.members) - 1)  # per voxel
        mean_bytes = 2 * (len(self.card.labels) + 1)
        if axes <= {own} and volumes_bytes <= mean_bytes:
            return self._side_by_side(case, slabs)
        return self._one_after_the_other(case, slabs, volume.shape[-1], own)

    def _side_by_side(self, case: str, slabs: Iterator[Slab]) -> Iterator[Slab]:
        """Average runs of one axis: their slabs are of the same slices."""
        others = [member.slabs(case) for member in self.members]
        for parts in zip(slabs, *others, strict=True):
            where, _ = parts[0]
            probabilities = torch.stack([logits.float().softmax(1) for _, logits in parts])
            yield where, probabilities.mean(0).clamp_min(1e-8).log()

    def _one_after_the_other(self, case: str, slabs: Iterator[Slab], depth: int, own: str) -> Iterator[Slab]:
        """Average runs of several axes, in a volume of `depth` slices whose axes point to `own`, such as RAS."""
        count = 1 + len(self.members)
        mean = None
        for where, logits in slabs:
            if mean is None:  # [K + 1, H, W, D]
                shape = (*logits.shape[1:], depth)
                mean = torch.zeros(shape, dtype=torch.float16, device=logits.device)
            add_probabilities(mean, where, logits, count)
        for member in self.members:
            turn = Turn.between(member.axcodes(case), own)
            turned = mean.permute(0, *(1 + axis for axis in turn.axes))
            for where, logits in member.slabs(case):
                add_probabilities(turned, *turn.slab(where, logits, turned.shape[-1]), count)
        for start in range(0, depth, SLAB):
            where = slice(start, min(start + SLAB, depth))
            probabilities = mean[..., where].movedim(-1, 0).float()
            yield where, probabilities.clamp_min(1e-8).log()


@dataclass(frozen=True)
class Turn:
    """Where one run's volume is placed in another's.

    Attributes:
        axes: (3,), the other's axis that each of its axes runs along.
        flips: (3,), whether it runs the other way.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def between(cls, codes: str, others: str) -> Turn:
        """Return the turn of a volume whose axes point to `codes`, such as RAS, in one whose axes point to `others`."""
        places = [pair_of(other) for other in others]
        axes = tuple(places.index(pair_of(code)) for code in codes)
        return cls(axes, tuple(others[axis] != code for axis, code in zip(axes, codes, strict=True)))

    def slab(self, where: slice, logits: Tensor, depth: int) -> Slab:
        """Return a slab of the volume, which has `depth` slices, in the other's directions; axes stay exchanged."""
        rows, columns, across = self.flips
        turned = [axis for axis, flipped in ((-2, rows), (-1, columns), (0, across)) if flipped]
        if across:
            where = slice(depth - where.stop, depth - where.start)
        return where, logits.flip(turned) if turned else logits


class Member:
    """One of the other runs, with its network loaded.

    Args:
        run: its folder.
        cases: to be segmented.
        card: with the organs that it must be for.
        overrides: of its `inference.yaml`.
    """

    def __init__(self, run: Path, cases: Sequence[Case], card: Card, overrides: Mapping[str, Any]) -> None:
        self.run = LoadedRun(sound_run(run), **overrides)
        if list(self.run.card.labels) != list(card.labels):
            raise InputError(f"{run.name}: made for other organs; average runs of one card")
        if self.run.retrieves:
            self.run.open_bank()
        self.cases = {case.case: case for case in cases}
        self.preparation = self.run.get("preparation")

    def axcodes(self, case: str) -> str:
        """Return where the axes of this run's volume of a case point, such as RAS."""
        if self.preparation.get("slice_layout", DEFAULT_LAYOUT) == "file":
            return slices_orientation(self.cases[case])
        return SLICE_AXCODES[self.run.get("slice_axis")]

    @torch.no_grad()
    def slabs(self, case: str) -> Iterator[Slab]:
        """Yield the logits of a case, slab by slab of this run's own slices, on the image's own grid within them."""
        run = self.run
        item = run.dataset.item(self.cases[case])
        supports = run.supports(self.cases[case])
        yield from run.inferer.slabs(item["image"].to(run.device), run.network, supports)


def add_probabilities(mean: Tensor, where: slice, logits: Tensor, count: int) -> None:
    """Add a slab's probabilities, divided by a count, to a mean [K + 1, H, W, D] at its slices, in place."""
    probabilities = logits.float().softmax(1) / count
    mean[..., where] += probabilities.movedim(0, -1).to(mean)
