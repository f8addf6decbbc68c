"""DICOM segmentations for MONAI Label, which calls dcmqi's `itkimage2segimage` for them: a program of that name."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ragsam.data.cards.load import load_card
from ragsam.errors import InputError
from ragsam.files import write_text_atomic
from ragsam.inference.dicom_seg import write_dicom_seg
from ragsam.io.dicom_series import slice_files, split_series
from ragsam.io.grids import Grid, OtherGridError, turn_onto
from ragsam.io.read_volume import open_volume

PROGRAM = "itkimage2segimage"
_WHAT = "label"


def write_program(folder: Path, python: str, card: Path) -> Path:
    """Write the program, which MONAI Label then downloads from nowhere.

    Args:
        folder: `bin/` of MONAI Label's app, the last on its search path.
        python: of an environment with this package and highdicom, which does not work with MONAI Label's pydicom.
        card: of the labels.

    Returns:
        The program.
    """
    command = shlex.join([python, "-m", "ragsam.serving.dicom_program", "--card", str(card)])
    path = folder / PROGRAM
    write_text_atomic(path, f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return path


def labels_on_series(label: Path, series: Path) -> NDArray[np.uint8]:
    """Return a label volume in the array order of a DICOM series: [columns, rows, slices].

    Args:
        label: a file on the series' grid, its axes in any order and direction.
        series: a folder of DICOM slices.

    Raises:
        InputError: another grid, or a file that cannot be read.
    """
    volume = open_volume(label, _WHAT)
    image = open_volume(series, "series")
    if volume.ndim != 3:
        raise InputError("label: it is not three-dimensional; give one volume of one channel")
    try:
        turn = turn_onto(Grid.of(volume), Grid.of(image))
    except OtherGridError as error:
        raise InputError(f"label: it is not on the series' grid, {error}; resample it to the image") from error
    return turn(np.asarray(volume.dataobj)).round().astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a segmentation by dcmqi's arguments; names and codes are the card's, not those of dcmqi's metadata."""
    parser = argparse.ArgumentParser(prog=PROGRAM)
    for name in ("card", "inputImageList", "inputDICOMDirectory", "outputDICOM"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--inputMetadata", type=Path)
    given = parser.parse_args(arguments)
    try:
        labels = labels_on_series(given.inputImageList, given.inputDICOMDirectory)
        files = slice_files(*split_series(given.inputDICOMDirectory), _WHAT)
        card = load_card(given.card)
        write_dicom_seg(given.outputDICOM, labels, files, card, _WHAT, every_slice=True)  # MONAI Label reads it again
    except InputError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
