"""A training on TensorBoard: every step's loss, what the log has, and how a validation volume is segmented."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
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

#: Neighbours that are drawn.
NEIGHBOURS = 4


class Board:
    """Writes TensorBoard's files; it stands after the handler that logs and the one that resumes.

    The picture is the slice with the most labelled pixels of the first validation volume, with its reference on the
    left and the prediction on the right; another has the slices of the bank that count most there, with their labels.
    No name goes with them, yet they are pictures of patients: keep the folder as the data are kept.

    Args:
        folder: of the files.
        validator: the evaluator.
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
        """Register with the trainer and the evaluator; of several processes the first writes."""
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
        """Note where the training begins: what an interrupted one wrote of the steps from there on is dropped."""
        self._first_step = engine.state.iteration + 1

    @cached_property
    def _writer(self) -> Any:
        """What writes; a training that has nothing left to do makes no file."""
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        return SummaryWriter(str(self.folder), purge_step=self._first_step)

    def write_loss(self, engine: Engine) -> None:
        """Write a step's loss."""
        self._writer.add_scalar("step/loss", engine.state.output["loss"].item(), engine.state.iteration)

    def write_row(self, engine: Engine) -> None:
        """Write what the log has of a validation."""
        row = dict(self._trainer.state.history["rows"][-1])
        step = row.pop("step")
        for name, value in row.items():
            if value is not None:
                group, _, rest = name.partition("_")
                tag = f"{group}/{rest}" if group in ("dice", "loss") and rest else f"training/{name}"
                self._writer.add_scalar(tag, value, step)

    def note(self, engine: Engine) -> None:
        """Note the supports of the first volume; the handler that retrieves stands before this one."""
        self._supports = engine.state.batch.get("supports")

    def draw(self, engine: Engine) -> None:
        """Draw the first volume of a validation, and its neighbours."""
        batch, output = engine.state.batch[0], engine.state.output[0]
        spacing_mm = tuple(float(side) for side in batch["image"].pixdim[:2])
        volumes = [np.asarray(item.cpu())[0] for item in (batch["image"], batch["label"], output["pred"])]
        picture = volume_picture(*volumes, spacing_mm=spacing_mm, colours=self.colours)
        step = self._trainer.state.iteration
        self._writer.add_image("validation", picture, step, dataformats="HWC")
        if self._supports is None:
            return
        neighbours = self._supports.by_slice()[str(telling_slice(volumes[1]))][:NEIGHBOURS]
        if neighbours:
            bank = self._supports.retriever.bank
            picture = neighbour_picture(bank, [near["row"] for near in neighbours], self.colours)
            self._writer.add_image("neighbours", picture, step, dataformats="HWC")

    def close(self, engine: Engine) -> None:
        """Write what is left."""
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
        colours: of label values.
    """
    z = telling_slice(reference)
    options = {"spacing_mm": spacing_mm, "window": (0.0, 1.0), "colours": colours}
    return _row(
        slice_png(image[..., z], labels[..., z].round().astype(np.uint8), **options)
        for labels in (reference, prediction)
    )


def telling_slice(reference: NDArray[Any]) -> int:
    """Return the number of the slice with the most labelled pixels of [H, W, D]."""
    return int((reference > 0).sum((0, 1)).argmax())


def neighbour_picture(bank: Bank, rows: Sequence[int], colours: Mapping[int, Colour]) -> NDArray[np.uint8]:
    """Return slices of a bank with their labels, side by side, as RGB [rows, columns, 3].

    A bank without images shows the labels alone.
    """
    options = {"spacing_mm": (1.0, 1.0), "window": (0.0, 255.0), "colours": colours}
    return _row(slice_png(_image(bank, row), np.asarray(bank.labels[row]), **options) for row in rows)


def _image(bank: Bank, row: int) -> NDArray[np.uint8] | None:
    """Return a slice's image at the size of its labels; banks keep it smaller."""
    if bank.images is None:
        return None
    size = bank.labels.shape[:0:-1]
    return np.asarray(Image.fromarray(np.asarray(bank.images[row])).resize(size, Image.Resampling.BILINEAR))


def _row(pngs: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.hstack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs])
