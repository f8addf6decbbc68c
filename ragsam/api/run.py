"""A run in Python: loaded once, it segments volume after volume, with the results of the commands."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.data import list_data_collate
from nibabel.spatialimages import SpatialImage

from ragsam.api.bank import RunBank
from ragsam.api.datalists import as_datalist
from ragsam.api.evaluate import evaluate
from ragsam.api.images import read_image
from ragsam.api.result import Result
from ragsam.api.segment import segment_with_run
from ragsam.api.unpack import unpack_run
from ragsam.console.library_warnings import told_once
from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case
from ragsam.data.label_numbers import check_numbering, raw_numbers, to_raw
from ragsam.errors import InputError
from ragsam.inference.evaluation import TRACE_NAME
from ragsam.inference.loaded_run import LoadedRun
from ragsam.inference.volume_writer import on_grid_of
from ragsam.io.read_volume import open_volume
from ragsam.prompting.clicks import Box, Click, objects_of
from ragsam.prompting.prompted_run import PromptedRun, answering_prompts, load_prompted
from ragsam.runs.run import RunFolder, bad_input

#: A path, an image of nibabel or SimpleITK, or (array, affine).
Image = Any


def load(path: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None) -> Run:
    """Load a trained run.

    Args:
        path: a run or another bundle's folder, or a packed run (`.zip`), which is unpacked into a temporary folder for
            as long as the run is used.
        base: the base weights of a packed run, where they are not in it.

    Raises:
        InputError: none of these, a run that is not trained, or a packed one whose configs run code of their own.

    Examples:
        >>> import ragsam
        >>> run = ragsam.load("runs/hippocampus")
        >>> run.card.labels
        {'anterior': 1, 'posterior': 2}
    """
    if not Path(path).is_file():
        return Run(path)
    place = tempfile.TemporaryDirectory(prefix="ragsam-")
    folder = Path(place.name) / Path(path).stem
    packed = unpack_run(path, folder, base=base)
    if packed.code:
        raise InputError(
            f"{Path(path).name}: {packed.code[0]}; if you trust its source, `ragsam unpack` it, load the folder"
        )
    run = Run(folder)
    run._unpacked = place
    return run


class Run:
    """A trained run. Its network and its bank are loaded when they are first needed, and once.

    Args:
        path: its folder; see `ragsam.load`.

    Attributes:
        path: its folder, absolute.
        card: the organs that it segments.
        bank: its support bank.

    Raises:
        InputError: no run, or one that is not trained.

    Examples:
        >>> import ragsam
        >>> run = ragsam.load("runs/hippocampus")
        >>> result = run.segment("mr.nii.gz")
        >>> result.labels.shape
        (32, 32, 6)
        >>> alone = run.segment("mr.nii.gz", retrieval=False, probabilities=False)
        >>> alone.neighbours
        {}
    """

    _unpacked: tempfile.TemporaryDirectory[str] | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = RunFolder(path)
        if not self._folder.weights.is_file():
            raise InputError(f"{path}: not trained (no {self._folder.weights.name}); train it with `ragsam train`")
        self.path = self._folder.path
        self.card: Card = self._folder.card
        self.bank = RunBank(self._folder, changed=weakref.WeakMethod(self._forget_bank))
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @told_once()
    def segment(
        self,
        image: Image,
        *,
        prompts: Sequence[Click | Box] = (),
        propagate: bool = False,
        refine: bool = False,
        retrieval: bool = True,
        patient: str | None = None,
        probabilities: bool = True,
        labels: str = "card",
    ) -> Result:
        """Segment a volume, as `ragsam segment` does, to the voxel.

        Args:
            image: path of a volume or a DICOM folder, an image of nibabel or of SimpleITK, or (array [X, Y, Z], affine
                (4, 4), voxel to RAS mm).
            prompts: objects to find by clicks and boxes, in voxel indices of `image`; the result holds these alone, or
                with `refine` the automatic result with these corrected. See docs/how-to/prompts.md.
            propagate: follow each object from the prompted slices through the volume.
            refine: begin with the automatic result; each object is then an organ.
            retrieval: False segments without the bank.
            patient: key of the patient, whose slices in the bank are left out; None: the name of the image's file.
            probabilities: keep those of every organ, a byte a voxel each; without prompts.
            labels: the numbers that organs get: the card's, or `raw`, the data set's own; without prompts.

        Raises:
            InputError: an image that cannot be read, no bank, faulty prompts, or a network that answers none.
        """
        check_numbering(labels)
        if prompts and labels != "card":
            raise InputError("labels: not with prompts, whose objects have numbers after the card's; leave it out")
        case, opened = read_image(image, patient, self.card)
        with self._lock, bad_input():
            if prompts:
                asked = objects_of(prompts, self.card, propagate=propagate, refine=refine)
                return self._answer(case, opened, asked, retrieval=retrieval)
            return self._segment(case, opened, retrieval=retrieval, probabilities=probabilities, numbering=labels)

    @told_once()
    def evaluate(
        self,
        cases: str | os.PathLike[str] | Sequence[Case | Mapping[str, Any]],
        output: str | os.PathLike[str] | None = None,
        *,
        section: str = "test",
        retrieval: bool = True,
        protocol: str = "clinical",
    ) -> dict[str, Any]:
        """Segment labelled cases and measure the results, as `ragsam segment` and `ragsam evaluate` do.

        Args:
            cases: a datalist, of which `section` is taken; or cases {"case", "patient", "image", "label"}.
            output: folder for `predictions/`, `metrics.json`, `metrics.csv` and `report.html`; None keeps nothing.
            retrieval: False segments without the bank.
            protocol: see `ragsam.evaluate`.

        Returns:
            The content of `metrics.json`.

        Raises:
            InputError: as `ragsam.segment` and `ragsam.evaluate`.
        """
        with tempfile.TemporaryDirectory(prefix="ragsam-") as temporary:
            folder = Path(temporary) if output is None else Path(output)
            datalist = as_datalist(cases, self._folder, section, Path(temporary))
            predictions = folder / "predictions"
            segment_with_run(self.path, [datalist], predictions, section=section, retrieval=retrieval)
            options = {"section": section, "protocol": protocol, "card": self._folder.card_path}
            if retrieval and (predictions / TRACE_NAME).is_file():
                options["bank"] = self.bank.path
            return evaluate(datalist, predictions, folder, **options)

    @cached_property
    def _loaded(self) -> LoadedRun:
        return LoadedRun(self._folder)

    @cached_property
    def _prompted(self) -> PromptedRun:
        """The run as it answers prompts: the same, where its network does as it is."""
        if answering_prompts(self._folder) is None:
            return PromptedRun(self._loaded)
        return load_prompted(self._folder)

    def _forget_bank(self) -> None:
        """Have the bank opened again when it is searched next."""
        self._loaded.forget_bank()
        if "_prompted" in self.__dict__:
            self._prompted.loaded.forget_bank()

    @torch.no_grad()
    def _segment(
        self, case: Case, opened: SpatialImage | None, *, retrieval: bool, probabilities: bool, numbering: str
    ) -> Result:
        loaded = self._loaded
        item = loaded.dataset.item(case, opened)
        supports = loaded.supports(case) if retrieval else None
        volumes = list_data_collate([item])["image"].to(loaded.device)
        (found,) = loaded.inferer(volumes, loaded.network, supports=supports, probabilities=probabilities)
        found = loaded.postprocessing({"pred": found, "image": item["image"]})
        image = open_volume(case.image, case.case) if opened is None else opened
        labels = found["pred"].cpu().numpy()[0].round().astype("uint8")
        values = self.card.labels
        if numbering == "raw":
            labels, values = to_raw(labels, self.card), raw_numbers(self.card)
        return Result(
            case.case,
            on_grid_of(image, labels, case.case),
            values,
            {} if supports is None else {int(number): told for number, told in supports.by_slice().items()},
            None if supports is None else supports.novelty(),
            _probabilities=found["probabilities"].cpu().numpy() if probabilities else None,
            _image=image,
        )

    def _answer(self, case: Case, opened: SpatialImage | None, asked: Sequence[Any], *, retrieval: bool) -> Result:
        item = self._prompted.loaded.dataset.item(case, opened)
        labels, told = self._prompted.answer(case, item["image"], asked, retrieval=retrieval)
        image = open_volume(case.image, case.case) if opened is None else opened
        values = {one["name"]: one["value"] for one in told["objects"]}
        values = {**self.card.labels, **values} if told["automatic"] else values
        return Result(case.case, on_grid_of(image, labels, case.case), values, objects=told["objects"])
