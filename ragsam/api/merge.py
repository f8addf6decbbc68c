"""Merging: what the parts of a command wrote becomes what one call would have written."""

from __future__ import annotations

import os
from pathlib import Path

from ragsam.api.evaluate import merge_scores
from ragsam.api.index import merge_parts
from ragsam.errors import InputError
from ragsam.evaluation.part_scores import SCORES_NAME
from ragsam.inference.evaluation import evaluation_lines
from ragsam.inference.merge_segmentations import merge_segmentations
from ragsam.inference.provenance import PROVENANCE_NAME
from ragsam.parts import part_folders
from ragsam.retrieval.bank_manifest import MANIFEST


def merge(
    folder: str | os.PathLike[str], *, run: str | os.PathLike[str] | None = None, overwrite: bool = False
) -> list[str]:
    """Merge the parts in a folder, made by `--part`, into it: a bank, label volumes or an evaluation.

    The parts stay. Merging again gives the same.

    Args:
        folder: the `--output` of the parts.
        run: of a bank, whose number of neighbours its agreement is measured with; None takes the usual number, or the
            run's that the bank belongs to (`RUN/bank`).
        overwrite: replace files of `folder` that are not the package's own, see `ragsam.outputs.Outputs`.

    Returns:
        Lines for a person.

    Raises:
        InputError: a part that is missing, parts that do not go together, or as of the command itself.
    """
    folder = Path(folder)
    parts = part_folders(folder)
    if (parts[0] / MANIFEST).is_file():
        owner = folder.absolute().parent
        if run is None and folder.name == "bank" and (owner / "configs" / "train.yaml").is_file():
            run = owner
        manifest = merge_parts(run, folder, parts)
        return [f"bank: {folder}, {manifest['slices']} slices of {manifest['patients']} patients"]
    if run is not None:
        raise InputError("--run: of a bank alone; leave it out")
    if (parts[0] / SCORES_NAME).is_file():
        metrics = merge_scores(folder, parts, overwrite=overwrite)
        return [*evaluation_lines(metrics, folder), *metrics["faults"]]
    if (parts[0] / PROVENANCE_NAME).is_file():
        files = merge_segmentations(folder, parts, overwrite=overwrite)
        return [f"merged: {len(files)} files of {len(parts)} parts in {folder}"]
    raise InputError(f"{parts[0]}: neither a bank nor label volumes nor scores in it; run this part again")
