"""Label volumes on the input's own grid, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events

from ragsam.files import atomic_write
from ragsam.transforms.reading import open_volume


class LabelVolumeWriter:
    """Writes each prediction as `CASE.nii.gz`, with the grid and affine of the case's own image.

    Args:
        folder: where to write.
        images: path of each case's image.
    """

    def __init__(self, folder: str | os.PathLike[str], images: Mapping[str, str | os.PathLike[str]]) -> None:
        self.folder = Path(folder)
        self.images = images

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)

    def write(self, engine: Engine) -> None:
        """Write the predictions of the current batch."""
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            labels = output["pred"].cpu().numpy()[0].round().astype(np.uint8)
            write_label_volume(self.folder / f"{batch['case']}.nii.gz", labels, self.images[batch["case"]])


def write_label_volume(path: Path, labels: np.ndarray, image_path: str | os.PathLike[str]) -> None:
    """Write labels [X, Y, Z], uint8, as NIfTI with the affine, codes and units of an image; nothing else is copied.

    The image may be in any format that `open_volume` opens.

    Raises:
        ValueError: labels that are not on the image's grid.
    """
    image = open_volume(Path(image_path), path.name)
    if labels.shape != image.shape[:3]:
        raise ValueError(f"{path.name}: labels are {labels.shape}, the image is {image.shape}")
    volume = nib.Nifti1Image(labels, image.affine)
    # The header's free text (descrip, intent_name, db_name) may name the patient: only the geometry goes on.
    volume.header.set_xyzt_units(*image.header.get_xyzt_units())
    for name in ("sform", "qform"):
        code = int(image.header[f"{name}_code"])
        getattr(volume, f"set_{name}")(image.affine, code=code or 1)
    with atomic_write(path) as temporary:
        nib.save(volume, temporary)
