"""Pseudo-labelling: a run labels volumes that nobody has labelled, and says where its labels can be learnt from."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ragsam.api.segment import segment_with_run
from ragsam.api.unlabelled import SECTION as UNLABELLED
from ragsam.data.cards.model import Card
from ragsam.data.datalist import Case, write_datalist
from ragsam.data.pseudo_labels import SECTION, learnt_entry
from ragsam.evaluation.read_labels import read_labels
from ragsam.evaluation.slice_agreement import slice_agreement
from ragsam.inference.evaluation import TRACE_NAME
from ragsam.io.documents import read_json
from ragsam.outputs import Outputs
from ragsam.runs.run import RunFolder

logger = logging.getLogger(__name__)

#: An organ of a slice is learnt from where the labels agree with a Dice of at least this.
LEAST_AGREEMENT = 0.7
#: The second look: the slices are seen a little smaller and larger too.
SECOND_LOOK = {"test_scales": [0.9, 1.1]}
DATALIST = "datalist.json"


@dataclass(frozen=True)
class PseudoLabels:
    """What a run made of volumes without labels.

    Attributes:
        datalist: of the volumes that are learnt from; None if absent.
        volumes: how many these are.
        novel: how many were left out as unlike the bank's.
        share: of all organs and slices of the volumes, those that are learnt from, 0 to 1.
    """

    datalist: Path | None
    volumes: int
    novel: int
    share: float


def write_pseudo_labels(
    run: str | os.PathLike[str],
    cases: Sequence[Case],
    folder: str | os.PathLike[str],
    *,
    retrieval: bool = True,
    overwrite: bool = False,
) -> PseudoLabels:
    """Label volumes by a run and its bank, and choose by organ and slice what can be learnt from.

    The labels are those of network and bank together. They are compared with the network's own, and those with what
    the network says once it has looked at the slices at other sizes too; an organ of a slice is learnt from where both
    comparisons agree. A volume that is unlike those of the bank is left out.

    Args:
        run: a trained run, with a bank for retrieval.
        cases: without labels, none of a patient who validates or is tested.
        folder: gets `labels/CASE.nii.gz` of all cases, for a person to correct, and `datalist.json` of those that are
            learnt from, see `ragsam.data.pseudo_labels`.
        retrieval: False: the network labels alone.
        overwrite: replace what a killed command left there.

    Raises:
        InputError: as `segment_with_run`.
    """
    folder = Path(folder)
    root = RunFolder(run)
    axis = root.content("inference")["slice_axis"]
    with tempfile.TemporaryDirectory(prefix="ragsam-looks-") as place:
        looks = Path(place)
        listed = looks / DATALIST
        write_datalist(listed, str(root.card_path), {UNLABELLED: list(cases)})
        told = {"section": UNLABELLED, "overwrite": overwrite}
        segment_with_run(run, [listed], folder / "labels", retrieval=retrieval, **told)
        made = [folder / "labels"]
        if retrieval:
            segment_with_run(run, [listed], looks / "alone", retrieval=False, **told)
            made.append(looks / "alone")
        segment_with_run(run, [listed], looks / "second", retrieval=False, options=SECOND_LOOK, **told)
        made.append(looks / "second")
        masks = {case.case: _learnt(case.case, root.card, axis, made) for case in cases}
    novel = _novel(folder / "labels" / TRACE_NAME) if retrieval else set()
    return _write(folder, root, axis, [case for case in cases if case.case not in novel], masks, len(novel))


def _learnt(case: str, card: Card, axis: int, made: Sequence[Path]) -> NDArray[np.bool_]:
    """Return which organs of which slices each folder's labels agree on with the next one's: [slices, K + 1].

    Nothing is learnt of an organ that the first labels lack entirely: it may be absent or missed.
    """
    classes = card.num_classes
    labels = [_labels_in_ras(folder / f"{case}.nii.gz", case) for folder in made]
    agreement = [slice_agreement(one, other, classes, axis) for one, other in pairwise(labels)]
    mask = np.minimum.reduce(agreement) >= LEAST_AGREEMENT
    mask[:, ~np.isin(np.arange(classes + 1), labels[0])] = False
    return mask


def _labels_in_ras(path: Path, case: str) -> NDArray[np.integer]:
    """Return a label volume with its axes as near to RAS as they come."""
    found = read_labels(path, case)
    turned = nib.as_closest_canonical(nib.Nifti1Image(found.labels, found.affine))
    return np.asarray(turned.dataobj)


def _novel(trace: Path) -> set[str]:
    """Return the cases that are unlike the bank's volumes."""
    if not trace.is_file():
        return set()
    cases: Mapping[str, Any] = read_json(trace)["cases"]
    return {name for name, found in cases.items() if (found["novelty"] or {}).get("flagged")}


def _write(
    folder: Path, run: RunFolder, axis: int, cases: Sequence[Case], masks: Mapping[str, NDArray[np.bool_]], novel: int
) -> PseudoLabels:
    """Write the datalist of what is learnt from, if anything is."""
    chosen = []
    for case in cases:
        if masks[case.case][:, 1:].any():
            extra = {**case.extra, **learnt_entry(masks[case.case], run.card, axis)}
            chosen.append(replace(case, label=folder / "labels" / f"{case.case}.nii.gz", extra=extra))
    share = float(np.mean([masks[case.case][:, 1:].mean() for case in chosen])) if chosen else 0.0
    told = "pseudo-labels: %d volumes, %.0f %% of their organs and slices agree; %d unlike the bank's are left out"
    logger.info(told, len(chosen), 100 * share, novel)
    if not chosen:
        return PseudoLabels(None, 0, novel, 0.0)
    with Outputs.of_file(folder / DATALIST, overwrite=True):
        write_datalist(folder / DATALIST, str(run.card_path), {SECTION: chosen})
    return PseudoLabels(folder / DATALIST, len(chosen), novel, share)
