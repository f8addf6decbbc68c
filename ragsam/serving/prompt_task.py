"""Clicks and boxes that come through MONAI Label's `infer`, answered as `ragsam segment --prompts` answers them."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ragsam.data.cards.load import Card
from ragsam.data.served import as_cases
from ragsam.errors import InputError
from ragsam.inference.volume_writer import write_label_volume
from ragsam.prompting.prompt_file import ObjectPrompts
from ragsam.prompting.prompted_run import PromptedRun, answering_prompts, load_prompted
from ragsam.retrieval.bank_manifest import MANIFEST
from ragsam.runs.run import BANK, RunFolder
from ragsam.transforms.voxel_prompts import VoxelBox, VoxelPoint


def answers_prompts(run: Path) -> bool:
    """Whether a run's network answers prompts."""
    try:
        answering_prompts(RunFolder(run))
    except InputError:
        return False
    return True


def asked_object(request: Mapping[str, Any], card: Card) -> ObjectPrompts:
    """Read the prompts of a MONAI Label request, in the terms of 3D Slicer's plugin for `deepgrow`.

    Args:
        request: `label`, an organ in upper or lower case, or another name; `foreground` and `background`, clicks
            [[i, j, k], ...]; `roi`, a box [i, i, j, j, k, k], its ends in any order; all in voxels of the image's file.
            `propagate` and `refine` as in docs/reference/prompts.md.

    Raises:
        InputError: no prompt, or invalid numbers.
    """
    name = str(request.get("label") or "object")
    organs = {organ.lower(): organ for organ in card.labels}
    organ = name.lower() in organs
    points = []
    for key, inside in (("foreground", True), ("background", False)):
        for voxel in request.get(key) or []:
            points.append(VoxelPoint(*_numbers(voxel, 3, key), inside=inside))
    box = None
    if request.get("roi"):
        ends = np.sort(np.reshape(_numbers(request["roi"], 6, "roi"), (3, 2)), axis=1)
        box = VoxelBox(*map(tuple, ends.tolist()))
    if not (points or box):
        raise InputError(f"{name}: no prompt; send foreground or background clicks, or a roi")
    return ObjectPrompts(
        organs.get(name.lower(), name),
        organ,
        tuple(points),
        box,
        propagate=bool(request.get("propagate")),
        refine=organ and bool(request.get("refine")),
    )


def _numbers(values: Any, count: int, what: str) -> list[float]:
    valid = isinstance(values, list) and len(values) == count
    if valid:
        valid = all(type(value) in (int, float) and math.isfinite(value) for value in values)
    if not valid:
        raise InputError(f"{what}: {values!r} is not {count} numbers; send voxels of the image's file")
    return list(map(float, values))


class PromptTask:
    """Answers a request with the label volume of one object; has the interface of MONAI Label's `InferTask`.

    The network stays loaded while the file of its weights, and the bank, have not changed.

    Args:
        run: the served run, whose network answers prompts.
    """

    type = "deepgrow"
    dimension = 3
    description = "The object that clicks and a box mean"

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = RunFolder(run)
        self.card = self.run.card
        self.labels = {name.lower(): value for name, value in self.card.labels.items()}
        self._lock = threading.Lock()
        self._loaded: PromptedRun | None = None
        self._written: list[int] = []

    def info(self) -> dict[str, Any]:
        """Return the task's description for the server; viewers show its options."""
        return {
            "type": self.type,
            "labels": self.labels,
            "dimension": self.dimension,
            "description": self.description,
            "config": self.config(),
        }

    def config(self) -> dict[str, Any]:
        """Return the options of a request, with their defaults."""
        return {"propagate": False, "refine": False}

    def is_valid(self) -> bool:
        """Whether the task can be offered."""
        return True

    def get_path(self, validate: bool = True) -> str:
        """Return the file of the weights."""
        return str(self.run.weights)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return a NIfTI file, which the server removes once it is sent, and the description of the result.

        Args:
            request: see `asked_object`; `image` is the path of the image.

        Raises:
            InputError: an image that cannot be read, or faulty prompts.
        """
        asked = asked_object(request, self.card)
        with self._lock:
            prompted = self._prompted()
            (case,) = as_cases([{"image": str(request["image"])}])
            volume = prompted.loaded.dataset.item(case)["image"]
            labels, result = prompted.answer(case, volume, [asked])
        handle, path = tempfile.mkstemp(suffix=".nii.gz")
        os.close(handle)
        write_label_volume(Path(path), labels, case.image)
        (found,) = result["objects"]
        return path, {**result, "label_names": {asked.name: found["value"]}}

    def _prompted(self) -> PromptedRun:
        written = []
        for path in filter(Path.exists, (self.run.weights, self.run.path / BANK / MANIFEST)):
            file = path.stat()
            written += [file.st_mtime_ns, file.st_ino]  # what is saved within one tick of the clock is another file
        if written != self._written:
            self._loaded = load_prompted(self.run)
            self._written = written
        return self._loaded
