"""A run that answers prompts in some cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ragsam.data.cards.load import Card
from ragsam.data.checks.check_case import read_volume_checked
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.inference.bank_building import attach_bank
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.prompting.prompt_file import MaskFile, ObjectPrompts
from ragsam.prompting.prompted_volume import PromptedVolume, SliceMask, on_image_grid
from ragsam.prompting.propagation import propagate
from ragsam.prompting.refinement import AutomaticResult, refine, replace_organ, segment_automatically
from ragsam.retrieval.retriever import Retriever
from ragsam.runs.run import RunFolder, bad_input
from ragsam.runs.weights import WeightsLoader
from ragsam.transforms.slicing import context_offsets, slice_spacing_mm
from ragsam.transforms.voxel_prompts import SliceGrid, SlicePrompts, VoxelPrompts, prompts_by_slice

_AFFINE_TOLERANCE = 1e-3


_MOST_VALUES = 255


class PromptedRun:
    """A run, its network loaded, that answers prompts in some cases.

    Args:
        run: its folder.
        cases: what prompts may be about.
        overrides: of its `inference.yaml`.

    Raises:
        InputError: no run, or a network that answers no prompts.
    """

    def __init__(self, run: Path, cases: Sequence[Case], overrides: Mapping[str, Any]) -> None:
        maps = {"uncertainty": False, "probabilities": False}
        parser = RunFolder(run).parser("inference", cases=list(cases), **{**overrides, **maps})
        if (answering := answering_prompts(parser.config, run.name)) is not None:
            parser.update({"network_def#prompts": answering})
        self.cases = list(cases)
        self.get = parser.get_parsed_content
        with bad_input():
            self.card: Card = self.get("card_def")
            self.dataset, self.inferer = self.get("dataset"), self.get("inferer")
            self.network, self.device = self.get("network").eval(), torch.device(self.get("device"))
            WeightsLoader(self.network, self.get("weights")).load()

    def segment(self, index: int, asked: Sequence[ObjectPrompts]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return the label volume [X, Y, Z] of a case's objects, and what `prompts.json` tells of it."""
        case, volume = self.cases[index], self.dataset[index]["image"]
        grid, values = SliceGrid.of(volume), self._values(asked, case.case)
        by_slice = {one.name: _by_slice(one, grid, case) for one in asked}
        answering = self.prompted(volume)
        organs = [values[one.name] for one in asked if one.refine]
        automatic = self.automatic(index, volume, organs) if organs else None
        labels = np.zeros(grid.file_shape, np.uint8) if automatic is None else automatic.labels.copy()
        told = []
        for one in asked:
            value, prompts = values[one.name], by_slice[one.name]
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
        inferer = self.inferer
        options: dict[str, Any] = {}
        if inferer.context_distance_mm is not None:
            options = {"distance_mm": inferer.context_distance_mm, "spacing_mm": slice_spacing_mm(volume)}
        offsets = context_offsets(inferer.context_slices, **options)
        return PromptedVolume(self.network, volume.to(self.device), image_size=inferer.image_size, offsets=offsets)

    def automatic(self, index: int, volume: torch.Tensor, organs: Sequence[int]) -> AutomaticResult:
        """Return the automatic result of a case, with what refining some organs needs."""
        supports, case = None, self.cases[index]
        if self.get("retrieval") and self.network.fusion is not None:
            supports = VolumeSupports(self._retriever, case.patient, case.case)
        return segment_automatically(
            self.inferer, self.network, volume.to(self.device), self.get("postprocessing"), organs, supports
        )

    @cached_property
    def _retriever(self) -> Retriever:
        """The run's retriever, its bank opened."""
        retriever = self.get("retriever")
        attach_bank(retriever, self.network, self.get("bank"), self.get("preparation"))
        return retriever

    def _values(self, asked: Sequence[ObjectPrompts], case: str) -> dict[str, int]:
        """Return the label value of every object."""
        labels, others = self.card.labels, [one.name for one in asked if not one.organ]
        first = max(labels.values()) + 1
        if first + len(others) - 1 > _MOST_VALUES:
            raise InputError(f"{case}: {len(others)} objects; a label volume has room for {_MOST_VALUES - first + 1}")
        return {**labels, **{name: first + number for number, name in enumerate(others)}}


def answering_prompts(config: Mapping[str, Any], run: str) -> str | None:
    """Return what `prompts` must be changed to for a run's network to answer them; None where it does as it is.

    Raises:
        InputError: a network that cannot.
    """
    network = config.get("network_def") or {}

    def value(name: str) -> Any:
        given = network.get(name)
        return config.get(given[1:]) if isinstance(given, str) and given.startswith("@") else given

    if value("prompts") == "trained" or value("mask_tokens") is not None:
        return None
    if value("base"):
        return "base"
    raise InputError(
        f"{run}: its network answers no prompts and has no base weights; train one with --set prompts=trained"
    )


def _by_slice(asked: ObjectPrompts, grid: SliceGrid, case: Case) -> dict[int, SlicePrompts]:
    what = f"{case.case}: {asked.name}"
    mask = None if asked.mask is None else _read_mask(asked.mask, what, case)
    return prompts_by_slice(grid, VoxelPrompts(asked.points, asked.box, mask), what)


def _read_mask(mask: MaskFile, what: str, case: Case) -> NDArray[np.bool_]:
    """Read a draft that lies on the grid of a case's image."""
    volume = read_volume_checked(mask.path, f"{what}: mask")
    image = read_volume_checked(case.image, case.case, fill_nonfinite=case.fill_nonfinite)
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
