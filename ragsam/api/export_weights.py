"""The job behind `ragsam export --to samed` and `--to sam`: a run's weights in a published format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ragsam.errors import InputError
from ragsam.files import atomic_write
from ragsam.networks.exports import STATE_DICTS
from ragsam.outputs import Outputs
from ragsam.runs.run import RunFolder
from ragsam.runs.trained import trained_network, weight_files
from ragsam.transforms.layout import DEFAULT_LAYOUT


def export_state_dict(
    form: str, run: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> list[str]:
    """Write a trained run's weights as the state dict of a published format.

    Args:
        form: of `STATE_DICTS`.
        run: a trained or imported run.
        output: the file, `.pth`.
        overwrite: replace a file that is not the package's own, see `Outputs`.

    Returns:
        Lines on what was left out, and on what its user has to know.

    Raises:
        InputError: no trained run, or a network that the format cannot hold; nothing is written then.
    """
    if Path(output).suffix not in (".pth", ".pt"):
        raise InputError(f"--output {Path(output).name}: this format is a .pth file; call it so")
    with Outputs.of_file(output, reads=weight_files(run), overwrite=overwrite):
        network, _ = trained_network(run)
        state, notes = STATE_DICTS[form](network)
        with atomic_write(output) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:
                raise OSError(str(error).splitlines()[0]) from error  # a full disk, reported as by every other writer
    return [*notes, *_input_notes(RunFolder(run).content("inference"))]


def _input_notes(options: dict[str, Any]) -> list[str]:
    """Return what the format's own code does otherwise with a slice than this run."""
    notes = []
    if options.get("context_slices"):
        notes.append("input: the slice below, the slice, the slice above as channels, where the original repeats it")
    if options.get("slice_layout", DEFAULT_LAYOUT) == "ras":
        notes.append("input: slices [X, Y] of the volume turned to RAS, where SAMed and MedSAM feed [Y, X] of the file")
    return notes
