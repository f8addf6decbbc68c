"""A training on TensorBoard: every step's loss, the rows of the log, and a validation volume's segmentation."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from PIL import Image

from ragsam.inference.volume_supports import VolumeSupports
from ragsam.report.figures import Colour, slice_png
from ragsam.retrieval.bank import Bank

#: Neighbours in the picture.
NEIGHBOURS = 4
#: How columns of the log begin that have a group of their own.
_PARTS = ("dice_", "loss_")


class Board:
    """Writes TensorBoard's files; attached after the handlers that log and resume.

    The picture shows the slice with the most labelled pixels of the first validation volume, its reference on the left
    and the prediction on the right; another shows the slices of the bank that count most there, with their labels. They
    carry no names, yet are pictures of patients: keep the folder as the data are kept.

    Args:
        colours: of the organs, by label value.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        validator: Engine,
        colours: Mapping[int, Colour],
    ) -> None:
        self.folder = Path(folder)
        self.validator = validator
        self.colours = dict(colours)
        self._supports: VolumeSupports | None = None
        self._trainer: Engine | None = None
        self._first_step = 1

    def attach(self, engine: Engine) -> None:
        """Register with the trainer and the evaluator; only the first process writes."""
        if idist.get_rank() > 0:
            return
        self._trainer = engine
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write_loss)
        engine.add_event_handler(Events.COMPLETED, self.close)
        self.validator.add_event_handler(Events.ITERATION_STARTED(once=1), self.note)
        self.validator.add_event_handler(Events.ITERATION_COMPLETED(once=1), self.draw)
        self.validator.add_event_handler(Events.COMPLETED, self.write_row)

    def start(self, engine: Engine) -> None:
        """Note the first step: what an interrupted training wrote from there on is dropped."""
        self._first_step = engine.state.iteration + 1

    @cached_property
    def _writer(self) -> Any:
        """TensorBoard's writer; a training that has nothing left to do makes no file."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        return SummaryWriter(str(self.folder), purge_step=self._first_step)

    def write_loss(self, engine: Engine) -> None:
        """Write a step's loss."""
        self._writer.add_scalar("step/loss", engine.state.output["loss"].item(), engine.state.iteration)

    def write_row(self, engine: Engine) -> None:
        """Write the log's row of a validation."""
        row = dict(self._trainer.state.history["rows"][-1])
        step = row.pop("step")
        for name, value in row.items():
            if value is None:
                continue
            tag = f"training/{name}"
            if name.startswith(_PARTS):
                tag = name.replace("_", "/", 1)
            self._writer.add_scalar(tag, value, step)

    def note(self, engine: Engine) -> None:
        """Note the supports of the first volume; attached after the handler that retrieves."""
        self._supports = engine.state.batch.get("supports")

    def draw(self, engine: Engine) -> None:
        """Draw the first volume of a validation, and its neighbours."""
        batch = engine.state.batch[0]
        image = np.asarray(batch["image"].cpu())[0]
        reference = np.asarray(batch["label"].cpu())[0]
        prediction = np.asarray(engine.state.output[0]["pred"].cpu())[0]
        spacing_mm = tuple(batch["image"].pixdim[:2].tolist())
        picture = volume_picture(image, reference, prediction, spacing_mm=spacing_mm, colours=self.colours)
        step = self._trainer.state.iteration
        self._writer.add_image("validation", picture, step, dataformats="HWC")
        if self._supports is None:
            return
        neighbours = self._supports.by_slice()[str(telling_slice(reference))]
        if neighbours:
            rows = [neighbour["row"] for neighbour in neighbours[:NEIGHBOURS]]
            picture = neighbour_picture(self._supports.retriever.bank, rows, self.colours)
            self._writer.add_image("neighbours", picture, step, dataformats="HWC")

    def close(self, engine: Engine) -> None:
        """Write what is still buffered."""
        if "_writer" in vars(self):
            self._writer.close()


def volume_picture(
    image: NDArray[np.floating],
    reference: NDArray[Any],
    prediction: NDArray[Any],
    *,
    spacing_mm: tuple[float, float],
    colours: Mapping[int, Colour],
) -> NDArray[np.uint8]:
    """Return the slice with the most labelled pixels, reference and prediction side by side, as RGB [rows, columns, 3].

    Args:
        image: [H, W, D], 0-1.
        reference, prediction: [H, W, D], label values.
        spacing_mm: of H and W.
    """
    z = telling_slice(reference)
    pictures = []
    for labels in (reference, prediction):
        mask = labels[..., z].round().astype(np.uint8)
        png = slice_png(image[..., z], mask, spacing_mm=spacing_mm, window=(0.0, 1.0), colours=colours)
        pictures.append(_rgb(png))
    return np.hstack(pictures)


def telling_slice(reference: NDArray[Any]) -> int:
    """Return the number of the slice with the most labelled pixels of [H, W, D]."""
    return int((reference > 0).sum((0, 1)).argmax())


def neighbour_picture(bank: Bank, rows: Sequence[int], colours: Mapping[int, Colour]) -> NDArray[np.uint8]:
    """Return slices of a bank with their labels, side by side, as RGB [rows, columns, 3].

    A bank without images shows the labels alone.
    """
    pictures = []
    for row in rows:
        labels = np.asarray(bank.labels[row])
        image = None
        if bank.images is not None:  # smaller than the labels
            small = Image.fromarray(np.asarray(bank.images[row]))
            image = np.asarray(small.resize(labels.shape[::-1], Image.Resampling.BILINEAR))
        png = slice_png(image, labels, spacing_mm=(1.0, 1.0), window=(0.0, 255.0), colours=colours)
        pictures.append(_rgb(png))
    return np.hstack(pictures)


def _rgb(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
