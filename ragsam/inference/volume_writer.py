"""Label volumes and maps on the input's own grid, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from nibabel.spatialimages import HeaderDataError, SpatialImage

from ragsam.data.cards.model import Card
from ragsam.data.label_numbers import raw_numbers, sidecar_name, to_raw, write_sidecar
from ragsam.errors import InputError
from ragsam.files import atomic_write, file_names
from ragsam.io.nifti import copy_place, stored_header
from ragsam.io.read_volume import open_volume
from ragsam.outputs import Outputs


def written_names(
    case: str, organs: Sequence[str] = (), *, uncertainty: bool = False, probabilities: bool = False
) -> list[str]:
    """Return the names of the volumes that are written of a case: its labels, its uncertainty, one of each organ."""
    names = [f"{case}.nii.gz"]
    if uncertainty:
        names.append(f"uncertainty/{case}.nii.gz")
    if probabilities:
        names += [f"probabilities/{case}/{name}.nii.gz" for name in file_names(organs)]
    return names


class LabelVolumeWriter:
    """Writes each prediction as `CASE.nii.gz`, with the grid and affine of the case's own image.

    Where the output has them, it writes `uncertainty/CASE.nii.gz` and `probabilities/CASE/ORGAN.nii.gz` too: 0 to 1,
    in 255 steps. A volume is compressed and written in a thread while the next one is segmented; what fails there fails
    the evaluator when that is done, and all is written when it completes.

    Args:
        folder: where to write.
        images: path of each case's image.
        organs: names of the label values from 1 on, for the probabilities.
        card: of the organs, whose numbers `CASE.labels.json` names; None writes no such file.
        labels: the numbers that are written: the card's, or `raw`, the data set's own.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        images: Mapping[str, str | os.PathLike[str]],
        organs: Sequence[str] = (),
        card: Card | None = None,
        labels: str = "card",
    ) -> None:
        self.folder = Path(folder)
        self.images = images
        self.organs = list(organs)
        self.card = card
        self.labels = labels
        self._written: Future[None] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator, before the handlers that look at the files when it completes."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """See that all label volumes may be written, before any is."""
        names = [name for case in self.images for name in (*written_names(case), sidecar_name(case))]
        Outputs(self.folder, names, reads=self.images.values())

    def write(self, engine: Engine) -> None:
        """Have the predictions of the current batch written, when the last ones are."""
        volumes: list[tuple[str, str, np.ndarray, float | None]] = []
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            case = batch["case"]
            labels = output["pred"].cpu().numpy()[0].round().astype(np.uint8)
            asked = {name: name in output for name in ("uncertainty", "probabilities")}
            name, *map_names = written_names(case, self.organs, **asked)
            if self.card is not None and self.labels == "raw":
                labels = to_raw(labels, self.card)
            volumes.append((case, name, labels, None))
            maps = [*output.get("uncertainty", ()), *output.get("probabilities", ())]
            for name, values in zip(map_names, maps, strict=True):
                volumes.append((case, name, values.cpu().numpy(), 1 / 255))
        self.finish(engine)
        pool = ThreadPoolExecutor(1, thread_name_prefix="volume-writer")
        self._written = pool.submit(self._write, volumes)
        pool.shutdown(wait=False)  # the thread ends with its work

    def finish(self, engine: Engine) -> None:
        """Wait until the last predictions are written."""
        written = self._written
        self._written = None
        if written is not None:
            written.result()

    def _write(self, volumes: Sequence[tuple[str, str, np.ndarray, float | None]]) -> None:
        names = [name for _, name, _, _ in volumes]
        with Outputs(self.folder, [*names, *(sidecar_name(case) for case, *_ in volumes)]):
            for case, name, values, unit in volumes:
                try:
                    write_label_volume(self.folder / name, values, self.images[case], unit=unit)
                except HeaderDataError as error:
                    raise InputError(f"{case}: no label volume can be written ({error}); convert the image") from error
                if unit is None and self.card is not None:
                    numbers = raw_numbers(self.card) if self.labels == "raw" else self.card.labels
                    write_sidecar(self.folder / name, numbers, card=self.card.name, numbers=self.labels)


def write_label_volume(
    path: Path, labels: np.ndarray, image_path: str | os.PathLike[str], *, unit: float | None = None
) -> None:
    """Write labels [X, Y, Z], uint8, as NIfTI with the geometry of an image's own header; nothing else is copied.

    The image may be in any format that `open_volume` opens.

    Args:
        unit: what a step of the values stands for, so that readers see a map in those units; None for labels.

    Raises:
        ValueError: labels that are not on the image's grid.
    """
    volume = on_grid_of(open_volume(Path(image_path), path.name), labels, path.name)
    if unit is not None:
        volume.header.set_slope_inter(unit, 0)
    with atomic_write(path) as temporary:
        nib.save(volume, temporary)


def on_grid_of(image: SpatialImage, labels: np.ndarray, name: str) -> nib.Nifti1Image:
    """Return labels, or other values [X, Y, Z], as NIfTI with the geometry of an image's own header.

    Both its codes, both its matrices and its unit stay, so that every reader places both alike.

    Raises:
        ValueError: labels that are not on the image's grid.
    """
    if labels.shape != image.shape[:3]:
        raise ValueError(f"{name}: labels are {labels.shape}, the image is {image.shape}")
    # The header's free text (descrip, intent_name, db_name) may name the patient: only the geometry continues.
    header = nib.Nifti1Header()
    header.set_data_dtype(labels.dtype)
    header.set_data_shape(labels.shape)
    copy_place(stored_header(image), header)
    return nib.Nifti1Image(labels, header.get_best_affine(), header)
