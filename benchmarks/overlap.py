"""What reading ahead and writing behind give: a run's volumes segmented so, and one step after the other, in turns.

    OMP_NUM_THREADS=1 python benchmarks/overlap.py RUN DATALIST [--section test] [--side 512] [--rounds 3]

The network has one core, and what is read and written beside it another, so the machine needs two that are idle.
Seconds are those that pass, from the first volume's file to the last label volume's, medians of all rounds; what is
written is the same. Without retrieval too, since finding neighbours takes a small network's time several times over.
With `--side` slices are enlarged to so many pixels first, with a scanner's noise: some data sets were cut small.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine
from record import record
from scipy.ndimage import zoom

from ragsam.data.datalist import Case, load_datalist
from ragsam.workflows.bundle import run_config
from ragsam.workflows.volume_writer import LabelVolumeWriter


class WritesAtOnce(LabelVolumeWriter):
    """Writes a volume before the next one is segmented."""

    def write(self, engine: Engine) -> None:
        """Write the predictions of the current batch."""
        super().write(engine)
        self.finish(engine)


AFTER, BESIDE = "one after the other", "beside each other"
#: What a side overrides of a run's inference config; its writer is the fifth handler.
SIDES: dict[str, dict[str, Any]] = {
    AFTER: {"dataloader#_target_": "monai.data.DataLoader", "handlers#4#_target_": "overlap.WritesAtOnce"},
    BESIDE: {},
}


def segmented(
    run: Path, cases: Sequence[Case], overrides: Mapping[str, Any], *, retrieval: bool
) -> tuple[float, float, str]:
    """Return the seconds that pass while cases are segmented, the processor's, and the hash of what is written."""
    with tempfile.TemporaryDirectory() as folder:
        passed, spent = time.monotonic(), time.process_time()
        run_config(run, "inference", cases=cases, output_dir=folder, retrieval=retrieval, **overrides)
        passed, spent = time.monotonic() - passed, time.process_time() - spent
        digest = hashlib.sha256()
        for case in cases:
            digest.update(np.asarray(nib.load(Path(folder) / f"{case.case}.nii.gz").dataobj).tobytes())
        return passed, spent, digest.hexdigest()


def enlarged(case: Case, side: int, folder: Path) -> Case:
    """Return a case whose slices are enlarged, linearly, to so many pixels a side: int16, with noise of 10 units."""
    image = nib.load(case.image)
    scale = np.array([side / image.shape[0], side / image.shape[1], 1.0])
    voxels = zoom(np.asarray(image.dataobj, np.float32), scale, order=1)
    voxels += np.random.default_rng(0).normal(0, 10, voxels.shape)
    affine = image.affine @ np.diag([*(1 / scale), 1.0])
    path = folder / f"{case.case}.nii.gz"
    nib.save(nib.Nifti1Image(voxels.round().astype(np.int16), affine), path)
    return replace(case, image=path)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--section", default="test")
    parser.add_argument("--side", type=int, help="of slices, pixels (default: as they are)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    cases = load_datalist(args.datalist).section(args.section)
    with tempfile.TemporaryDirectory() as folder:
        if args.side:
            cases = [enlarged(case, args.side, Path(folder)) for case in cases]
        measure(args.run, cases, args.rounds)


def measure(run: Path, cases: Sequence[Case], rounds: int) -> None:
    """Segment in turns, and print the table."""
    sides = list(product((True, False), SIDES))
    found: dict[tuple[bool, str], list[tuple[float, float, str]]] = {key: [] for key in sides}
    for _ in range(rounds):
        for retrieval, side in sides:
            found[retrieval, side].append(segmented(run, cases, SIDES[side], retrieval=retrieval))
    lines = ["| retrieval | reading, segmenting, writing | s | processor s | times as fast |", "|---|---|---|---|---|"]
    alike = True
    for retrieval, side in sides:
        plain, mine = found[retrieval, AFTER], found[retrieval, side]
        before, after, spent = (
            statistics.median(times[part] for times in runs) for runs, part in ((plain, 0), (mine, 0), (mine, 1))
        )
        alike &= {times[2] for times in plain} == {times[2] for times in mine}
        lines.append(f"| {'on' if retrieval else 'off'} | {side} | {after:.1f} | {spent:.1f} | {before / after:.2f} |")
    told = f"{len(cases)} volumes as {nib.load(cases[0].image).shape}, {rounds} rounds in turns, "
    told += f"{torch.get_num_threads()} threads; "
    lines += ["", told + f"what is written is {'the same' if alike else 'NOT the same'}"]
    record("overlap", lines)


if __name__ == "__main__":
    main()
