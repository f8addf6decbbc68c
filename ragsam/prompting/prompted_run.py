"""A run that answers prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.data.checks.load_volume import load_volume_checked
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.inference.loaded_run import LoadedRun
from ragsam.io.grids import Grid, OtherGridError, turn_onto
from ragsam.io.read_volume import open_volume
from ragsam.networks.checkpoints import load_metadata
from ragsam.prompting.prompt_file import MaskFile, ObjectPrompts
from ragsam.prompting.prompted_volume import PromptedVolume, SliceMask, on_image_grid
from ragsam.prompting.propagation import Following, propagate
from ragsam.prompting.refinement import AutomaticResult, refine, replace_organ, segment_automatically
from ragsam.runs.run import RunFolder
from ragsam.transforms.slicing import context_offsets, slice_spacing_mm
from ragsam.transforms.voxel_prompts import SliceGrid, SlicePrompts, VoxelPrompts, prompts_by_slice

logger = logging.getLogger(__name__)

_HIGHEST_LABEL = 255


class AnsweringVolume(Protocol):
    """A volume whose slices answer prompts.

    Attributes:
        depth: number of slices.
        following: how objects are followed through it; None: as runs' networks do.
    """

    depth: int
    following: Following | None

    def answer(self, number: int, prompts: SlicePrompts) -> SliceMask:
        """Return the object that prompts mean in a slice."""


class PromptedObjects:
    """What answers the prompts for the objects of a volume: a run, or base weights alone.

    Args:
        card: of the organs that prompts may name.
    """

    def __init__(self, card: Card) -> None:
        self.card = card

    def volume(self, case: Case) -> torch.Tensor:
        """Return a case's volume [1, H, W, D], preprocessed.

        Raises:
            InputError: a file that cannot be read.
        """
        raise NotImplementedError

    def prompted(self, volume: torch.Tensor) -> AnsweringVolume:
        """Return a preprocessed volume [1, H, W, D] that answers prompts."""
        raise NotImplementedError

    def automatic(
        self, case: Case, volume: torch.Tensor, organs: Sequence[int], *, retrieval: bool = True
    ) -> AutomaticResult:
        """Return the automatic result of a case, with what refining some organs needs.

        Raises:
            InputError: base weights alone, which have none.
        """
        raise InputError(f"{case.case}: refine: base weights have no automatic result; leave it out, or name a run")

    def answer(
        self, case: Case, volume: torch.Tensor, asked: Sequence[ObjectPrompts], *, retrieval: bool = True
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return the label volume [X, Y, Z] of a case's objects, and its entry in `prompts.json`.

        Args:
            volume: [1, H, W, D], the case's image, preprocessed.
            retrieval: False refines the run's result without its bank.
        """
        grid = SliceGrid.of(volume)
        values = self._values(asked, case.case)
        by_slice = {entry.name: _by_slice(entry, grid, case) for entry in asked}
        answering = self.prompted(volume)
        labels = np.zeros(grid.file_shape, np.uint8)
        organs = [values[entry.name] for entry in asked if entry.refine]
        if organs:
            automatic = self.automatic(case, volume, organs, retrieval=retrieval)
            labels = automatic.labels.copy()
        objects = []
        for entry in asked:
            value = values[entry.name]
            prompts = by_slice[entry.name]
            if entry.refine:
                found = refine(answering.answer, automatic.odds[value], prompts)
            else:
                found = {number: answering.answer(number, prompt) for number, prompt in prompts.items()}
            if entry.propagate:
                found = propagate(answering.answer, found, answering.depth, answering.following)
                _tell_unfollowed(f"{case.case}: {entry.name}", prompts, found, grid)
            mask = on_image_grid(volume, found)
            if entry.refine:
                replace_organ(labels, value, mask, automatic.otherwise[value], found, grid)
            else:
                labels[mask] = value
            objects.append(_description(entry, value, prompts, found, grid))
        return labels, {"objects": objects, "automatic": bool(organs)}

    def _values(self, asked: Sequence[ObjectPrompts], case: str) -> dict[str, int]:
        """Return the label value of every object."""
        highest = max(self.card.labels.values(), default=0)
        others = [entry.name for entry in asked if not entry.organ]
        room = _HIGHEST_LABEL - highest
        if len(others) > room:
            raise InputError(f"{case}: {len(others)} objects; a label volume has room for {room}")
        return {**self.card.labels, **dict(zip(others, count(highest + 1), strict=False))}


class PromptedRun(PromptedObjects):
    """A run in memory that answers prompts.

    Args:
        loaded: the run, whose network answers prompts; see `load_prompted`.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        super().__init__(loaded.card)
        self.loaded = loaded

    def volume(self, case: Case) -> torch.Tensor:
        """Return a case's volume, prepared as the run's config says."""
        return self.loaded.dataset.item(case)["image"]

    def prompted(self, volume: torch.Tensor) -> PromptedVolume:
        """Return a preprocessed volume [1, H, W, D] that answers prompts."""
        inferer = self.loaded.inferer
        distance_mm = inferer.context_distance_mm
        offsets = context_offsets(inferer.context_slices, distance_mm=distance_mm, spacing_mm=slice_spacing_mm(volume))
        volume = volume.to(self.loaded.device)
        return PromptedVolume(self.loaded.network, volume, image_size=inferer.image_size, offsets=offsets)

    def automatic(
        self, case: Case, volume: torch.Tensor, organs: Sequence[int], *, retrieval: bool = True
    ) -> AutomaticResult:
        """Return the automatic result of a case, with what refining some organs needs."""
        loaded = self.loaded
        supports = None
        if retrieval:
            supports = loaded.supports(case)
        volume = volume.to(loaded.device)
        return segment_automatically(loaded.inferer, loaded.network, volume, loaded.postprocessing, organs, supports)


def load_prompted(run: RunFolder, **values: Any) -> PromptedRun:
    """Load a run whose network answers prompts, or can be made to by its options.

    Args:
        values: override those of its `inference.yaml`, by their keys.

    Raises:
        InputError: a network that answers no prompts, or as `LoadedRun`.
    """
    answering = answering_prompts(run)
    if answering is not None:
        values["network_def#prompts"] = answering
    return PromptedRun(LoadedRun(run, **values))


def answering_prompts(run: RunFolder) -> str | None:
    """Return the value of the option `prompts` with which a run's network answers them; None if it does already.

    Raises:
        InputError: a network that cannot, or a run without weights.
    """
    about = load_metadata(run.weights)
    if about.get("tuning", {}).get("frequency", {}).get("as_published"):
        raise InputError(f"{run.path.name}: its network is SAM-Adapter's, which answers no prompts")
    if about.get("prompts") == "trained" or about.get("mask_tokens") is not None:
        return None
    if about.get("base_sha256") is not None:
        return "base"
    raise InputError(
        f"{run.path.name}: its network answers no prompts and has no base weights; train one with --set prompts=trained"
    )


def _by_slice(asked: ObjectPrompts, grid: SliceGrid, case: Case) -> dict[int, SlicePrompts]:
    what = f"{case.case}: {asked.name}"
    mask = None
    if asked.mask is not None:
        mask = _read_mask(asked.mask, what, case)
    return prompts_by_slice(grid, VoxelPrompts(asked.points, asked.box, mask), what)


def _read_mask(mask: MaskFile, what: str, case: Case) -> NDArray[np.bool_]:
    """Read a draft on the grid of a case's image."""
    volume = load_volume_checked(mask.path, f"{what}: mask")
    image = open_volume(case.image, case.case)
    try:
        turn = turn_onto(Grid.of(volume), Grid.of(image))
    except OtherGridError as error:
        raise InputError(f"{what}: the mask is not on the image's grid, {error}; resample it to the image") from error
    voxels = turn(np.asarray(volume.dataobj).round())
    if mask.value is None:
        return voxels != 0
    return voxels == mask.value


def _tell_unfollowed(
    what: str, prompts: Mapping[int, SlicePrompts], found: Mapping[int, SliceMask], grid: SliceGrid
) -> None:
    """Say where propagation found an object in no other slice than those prompted, of a volume that has others."""
    if found.keys() != prompts.keys() or len(found) == grid.shape[2]:
        return
    slices = ", ".join(str(index) for index in sorted(grid.file_slice(number)[1] for number in found))
    why = "in the next the object is empty, elsewhere or of low quality; prompt more slices"
    logger.warning("%s: propagation ended where it started, at %s %s: %s", what, "ijk"[grid.axes[2]], slices, why)


def _description(
    asked: ObjectPrompts,
    value: int,
    prompts: Mapping[int, SlicePrompts],
    found: Mapping[int, SliceMask],
    grid: SliceGrid,
) -> dict[str, Any]:
    """Return an object's entry in `prompts.json`, with slices by their index in the input's file."""
    quality = {}
    for number, one in found.items():
        if one.mask.any():
            _, index = grid.file_slice(number)
            quality[index] = round(one.quality, 3)
    return {
        "name": asked.name,
        "value": value,
        "refined": asked.refine,
        "axis": "ijk"[grid.axes[2]],
        "prompted": sorted(grid.file_slice(number)[1] for number in prompts),
        "quality": {str(index): quality[index] for index in sorted(quality)},
    }
