"""A training on TensorBoard: every step's loss, what the log has, and how a validation volume is segmented."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from ragsam.report.figures import Colour, slice_png


class Board:
    """Writes TensorBoard's files; it stands after the handler that logs and the one that resumes.

    The picture is the slice with the most labelled pixels of the first validation volume, with its reference on the
    left and the prediction on the right. No name goes with it, yet it is a picture of a patient: keep the folder as the
    data are kept.

    Args:
        folder: of the files.
        validator: the evaluator.
        colours: of the organs, by label value.
    """

    def __init__(self, folder: str | os.PathLike[str], validator: Engine, colours: Mapping[int, Colour]) -> None:
        self.folder = Path(folder)
        self.validator = validator
        self.colours = dict(colours)
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

    def draw(self, engine: Engine) -> None:
        """Draw the first volume of a validation."""
        batch, output = engine.state.batch[0], engine.state.output[0]
        spacing_mm = tuple(float(side) for side in batch["image"].pixdim[:2])
        volumes = (np.asarray(item.cpu())[0] for item in (batch["image"], batch["label"], output["pred"]))
        picture = volume_picture(*volumes, spacing_mm=spacing_mm, colours=self.colours)
        self._writer.add_image("validation", picture, self._trainer.state.iteration, dataformats="HWC")

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
    from PIL import Image

    z = int((reference > 0).sum((0, 1)).argmax())
    options = {"spacing_mm": spacing_mm, "window": (0.0, 1.0), "colours": colours}
    pngs = [
        slice_png(image[..., z], labels[..., z].round().astype(np.uint8), **options)
        for labels in (reference, prediction)
    ]
    return np.hstack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in pngs])
