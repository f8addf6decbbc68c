"""What reading ahead and writing behind give: a run's volumes segmented so, and one step after the other, in turns.

    OMP_NUM_THREADS=1 python benchmarks/overlap.py RUN DATALIST [--section test] [--rounds 3]

The network has one core, and what is read and written beside it another, so the machine needs two that are idle.
Seconds are those that pass, from the first volume's file to the last label volume's, medians of all rounds; what is
written is the same. Without retrieval too, since finding neighbours takes a small network's time several times over.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine
from record import record

from ragsam.data.datalist import Case, load_datalist
from ragsam.inference.volume_writer import LabelVolumeWriter
from ragsam.runs.run import run_config


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


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--section", default="test")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    cases = load_datalist(args.datalist).section(args.section)
    sides = list(product((True, False), SIDES))
    found: dict[tuple[bool, str], list[tuple[float, float, str]]] = {key: [] for key in sides}
    for _ in range(args.rounds):
        for retrieval, side in sides:
            found[retrieval, side].append(segmented(args.run, cases, SIDES[side], retrieval=retrieval))
    lines = ["| retrieval | reading, segmenting, writing | s | processor s | times as fast |", "|---|---|---|---|---|"]
    alike = True
    for retrieval, side in sides:
        plain, mine = found[retrieval, AFTER], found[retrieval, side]
        before, after, spent = (
            statistics.median(run[part] for run in runs) for runs, part in ((plain, 0), (mine, 0), (mine, 1))
        )
        alike &= {run[2] for run in plain} == {run[2] for run in mine}
        lines.append(f"| {'on' if retrieval else 'off'} | {side} | {after:.1f} | {spent:.1f} | {before / after:.2f} |")
    told = f"{len(cases)} volumes, {args.rounds} rounds in turns, {torch.get_num_threads()} threads; "
    lines += ["", told + f"what is written is {'the same' if alike else 'NOT the same'}"]
    record("overlap", lines)


if __name__ == "__main__":
    main()
