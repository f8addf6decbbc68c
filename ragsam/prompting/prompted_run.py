"""A run that answers prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ragsam.data.checks.load_volume import load_volume_checked
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.inference.loaded_run import LoadedRun
from ragsam.io.read_volume import open_volume
from ragsam.networks.checkpoints import load_metadata
from ragsam.prompting.prompt_file import MaskFile, ObjectPrompts
from ragsam.prompting.prompted_volume import PromptedVolume, SliceMask, on_image_grid
from ragsam.prompting.propagation import propagate
from ragsam.prompting.refinement import AutomaticResult, refine, replace_organ, segment_automatically
from ragsam.runs.run import RunFolder
from ragsam.transforms.slicing import context_offsets, slice_spacing_mm
from ragsam.transforms.voxel_prompts import SliceGrid, SlicePrompts, VoxelPrompts, prompts_by_slice

_AFFINE_TOLERANCE = 1e-3
_MOST_VALUES = 255


class PromptedRun:
    """A run in memory that answers prompts.

    Args:
        loaded: the run, whose network answers prompts; see `load_prompted`.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        self.loaded = loaded
        self.card = loaded.card

    def answer(
        self, case: Case, volume: torch.Tensor, asked: Sequence[ObjectPrompts], *, retrieval: bool = True
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return the label volume [X, Y, Z] of a case's objects, and what `prompts.json` tells of it.

        Args:
            volume: [1, H, W, D], the case's image, preprocessed.
            retrieval: False refines what the run finds without its bank.
        """
        grid = SliceGrid.of(volume)
        values = self._values(asked, case.case)
        by_slice = {one.name: _by_slice(one, grid, case) for one in asked}
        answering = self.prompted(volume)
        organs = [values[one.name] for one in asked if one.refine]
        automatic = None
        labels = np.zeros(grid.file_shape, np.uint8)
        if organs:
            automatic = self.automatic(case, volume, organs, retrieval=retrieval)
            labels = automatic.labels.copy()
        told = []
        for one in asked:
            value = values[one.name]
            prompts = by_slice[one.name]
            if one.refine:
                found = refine(answering.answer, automatic.odds[value], prompts)
            else:
                found = {number: answering.answer(number, prompt) for number, prompt in prompts.items()}
            if one.propagate:
                found = propagate(answering.answer, found, answering.depth)
            mask = on_image_grid(volume, found)
            if one.refine:
                replace_organ(labels, value, mask, automatic.otherwise[value], found, grid)
            else:
                labels[mask] = value
            told.append(_told(one, value, prompts, found, grid))
        return labels, {"objects": told, "automatic": automatic is not None}

    def prompted(self, volume: torch.Tensor) -> PromptedVolume:
        """Return a preprocessed volume [1, H, W, D] that answers prompts."""
        inferer = self.loaded.inferer
        options: dict[str, Any] = {}
        if inferer.context_distance_mm is not None:
            options = {"distance_mm": inferer.context_distance_mm, "spacing_mm": slice_spacing_mm(volume)}
        offsets = context_offsets(inferer.context_slices, **options)
        volume = volume.to(self.loaded.device)
        return PromptedVolume(self.loaded.network, volume, image_size=inferer.image_size, offsets=offsets)

    def automatic(
        self, case: Case, volume: torch.Tensor, organs: Sequence[int], *, retrieval: bool = True
    ) -> AutomaticResult:
        """Return the automatic result of a case, with what refining some organs needs."""
        loaded = self.loaded
        supports = loaded.supports(case) if retrieval else None
        volume = volume.to(loaded.device)
        return segment_automatically(loaded.inferer, loaded.network, volume, loaded.postprocessing, organs, supports)

    def _values(self, asked: Sequence[ObjectPrompts], case: str) -> dict[str, int]:
        """Return the label value of every object."""
        labels, others = self.card.labels, [one.name for one in asked if not one.organ]
        first = max(labels.values()) + 1
        if first + len(others) - 1 > _MOST_VALUES:
            raise InputError(f"{case}: {len(others)} objects; a label volume has room for {_MOST_VALUES - first + 1}")
        return {**labels, **{name: first + number for number, name in enumerate(others)}}


def load_prompted(run: RunFolder, **values: Any) -> PromptedRun:
    """Load a run whose network answers prompts, or does so once it is told to.

    Args:
        values: of its `inference.yaml`, by their keys, instead of its own.

    Raises:
        InputError: a network that answers no prompts, or as `LoadedRun`.
    """
    answering = answering_prompts(run)
    if answering is not None:
        values["network_def#prompts"] = answering
    return PromptedRun(LoadedRun(run, **values))


def answering_prompts(run: RunFolder) -> str | None:
    """Return what `prompts` must be changed to for a run's network to answer them; None where it does as it is.

    Raises:
        InputError: a network that cannot, or a run without weights.
    """
    about = load_metadata(run.weights)
    if about.get("prompts") == "trained" or about.get("mask_tokens") is not None:
        return None
    if about.get("base_sha256") is not None:
        return "base"
    raise InputError(
        f"{run.path.name}: its network answers no prompts and has no base weights; train one with --set prompts=trained"
    )


def _by_slice(asked: ObjectPrompts, grid: SliceGrid, case: Case) -> dict[int, SlicePrompts]:
    what = f"{case.case}: {asked.name}"
    mask = None if asked.mask is None else _read_mask(asked.mask, what, case)
    return prompts_by_slice(grid, VoxelPrompts(asked.points, asked.box, mask), what)


def _read_mask(mask: MaskFile, what: str, case: Case) -> NDArray[np.bool_]:
    """Read a draft that lies on the grid of a case's image."""
    volume = load_volume_checked(mask.path, f"{what}: mask")
    image = open_volume(case.image, case.case)
    if volume.shape != image.shape or not np.allclose(volume.affine, image.affine, atol=_AFFINE_TOLERANCE):
        raise InputError(f"{what}: the mask is not on the image's grid; resample it to the image")
    voxels = np.asarray(volume.dataobj).round()
    return voxels != 0 if mask.value is None else voxels == mask.value


def _told(
    asked: ObjectPrompts,
    value: int,
    prompts: Mapping[int, SlicePrompts],
    found: Mapping[int, SliceMask],
    grid: SliceGrid,
) -> dict[str, Any]:
    """Return what `prompts.json` tells of an object; slices by their index in the input's file."""
    axis = "ijk"[grid.axes[2]]
    held = {grid.file_slice(number)[1]: one for number, one in found.items() if bool(one.mask.any())}
    return {
        "name": asked.name,
        "value": value,
        "refined": asked.refine,
        "axis": axis,
        "prompted": sorted(grid.file_slice(number)[1] for number in prompts),
        "quality": {str(index): round(held[index].quality, 3) for index in sorted(held)},
    }
