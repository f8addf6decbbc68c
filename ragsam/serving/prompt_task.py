"""Clicks and boxes that come through MONAI Label's `infer`, answered as `ragsam segment --prompts` answers them."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.data.cards.load import Card
from ragsam.data.served import as_cases
from ragsam.errors import InputError
from ragsam.inference.volume_writer import write_label_volume
from ragsam.prompting.prompt_file import ObjectPrompts
from ragsam.prompting.prompted_run import PromptedRun, answering_prompts, load_prompted
from ragsam.runs.run import RunFolder
from ragsam.transforms.voxel_prompts import VoxelBox, VoxelPoint


def answers_prompts(run: Path) -> bool:
    """Whether a run's network answers prompts."""
    try:
        answering_prompts(RunFolder(run))
    except InputError:
        return False
    return True


def asked_object(request: Mapping[str, Any], card: Card) -> ObjectPrompts:
    """Read what a request of MONAI Label's clients asks, in the words of 3D Slicer's plugin for `deepgrow`.

    Args:
        request: `label`, an organ in any case of letters, or another name; `foreground` and `background`, clicks
            [[i, j, k], ...]; `roi`, a box [i, i, j, j, k, k], its ends in any order; all voxels of the image's file.
            `propagate` and `refine` as in docs/prompts.md.

    Raises:
        InputError: no prompt, or numbers that are none.
    """
    name = str(request.get("label") or "object")
    organ = next((known for known in card.labels if known.lower() == name.lower()), None)
    points = [VoxelPoint(*voxel, inside=True) for voxel in _voxels(request, "foreground")]
    points += [VoxelPoint(*voxel, inside=False) for voxel in _voxels(request, "background")]
    box = _box(request["roi"]) if request.get("roi") else None
    if not points and box is None:
        raise InputError(f"{name}: no prompt; send foreground or background clicks, or a roi")
    refine = organ is not None and bool(request.get("refine"))
    propagate = bool(request.get("propagate"))
    return ObjectPrompts(organ or name, organ is not None, tuple(points), box, propagate=propagate, refine=refine)


def _voxels(request: Mapping[str, Any], key: str) -> list[list[float]]:
    return [_numbers(voxel, 3, key) for voxel in request.get(key) or []]


def _box(roi: Any) -> VoxelBox:
    ends = _numbers(roi, 6, "roi")
    return VoxelBox(*(tuple(sorted(ends[axis : axis + 2])) for axis in (0, 2, 4)))


def _numbers(values: Any, count: int, what: str) -> list[float]:
    sound = isinstance(values, list) and len(values) == count
    if not sound or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise InputError(f"{what}: {values!r} is not {count} numbers; send voxels of the image's file")
    return [float(value) for value in values]


class PromptTask:
    """Answers a request with the label volume of one object; an `InferTask` by MONAI Label's names.

    The network stays loaded while the file of its weights is the same.

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
        self._loaded: tuple[int, PromptedRun] | None = None

    def info(self) -> dict[str, Any]:
        """Return what the server tells of the task; viewers show its options."""
        told = {name: getattr(self, name) for name in ("type", "labels", "dimension", "description")}
        return {**told, "config": self.config()}

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
        """Return a NIfTI file, which the server removes once it is sent, and what was found in which slices.

        Args:
            request: see `asked_object`; `image` is the path of the image.

        Raises:
            InputError: an image that cannot be read, or faulty prompts.
        """
        asked = [asked_object(request, self.card)]
        with self._lock:
            prompted = self._prompted()
            (case,) = as_cases([{"image": str(request["image"])}])
            labels, told = prompted.answer(case, prompted.loaded.dataset.item(case)["image"], asked)
        handle, path = tempfile.mkstemp(suffix=".nii.gz")
        os.close(handle)
        write_label_volume(Path(path), labels, case.image)
        return path, {**told, "label_names": _named(asked, told)}

    def _prompted(self) -> PromptedRun:
        written = self.run.weights.stat().st_mtime_ns
        if self._loaded is None or self._loaded[0] != written:
            self._loaded = written, load_prompted(self.run)
        return self._loaded[1]


def _named(asked: Sequence[ObjectPrompts], told: Mapping[str, Any]) -> dict[str, int]:
    return {one.name: found["value"] for one, found in zip(asked, told["objects"], strict=True)}
