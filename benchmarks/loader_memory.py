"""Peak memory of the slice loader at 10 and at 100 volumes, with and without room for all of them.

    python benchmarks/loader_memory.py [--volumes 10 100] [--cache-mb 64 1024] [--shape 192 192 64]

Volumes are made in a temporary folder. Each row is a process of its own that checks and scans all volumes and then
loads two epochs; its peak is VmHWM of /proc/self/status.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import DataLoader
from record import record

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.data.slices import SliceDataset
from ragsam.data.volume_cache import kept_bytes
from ragsam.transforms import augmentation, preprocessing

SLICES = 800


def write_volumes(folder: Path, count: int, shape: Sequence[int]) -> None:
    """Write volumes of noise with a box for an organ."""
    draw = np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(side // 3, side // 2) for side in shape)] = 1
    for index in range(count):
        image = draw.integers(-200, 300, shape).astype(np.int16)
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{index:03d}_image.nii")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{index:03d}_label.nii")


def peak_mb() -> float:
    """Return the most memory that this process has held, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def load(folder: Path, count: int, cache_mb: float) -> dict[str, float]:
    """Load two epochs and return the peak after the imports, and at the end, and the reads of an epoch."""
    torch.set_num_threads(1)
    started = peak_mb()
    paths = [[folder / f"{index:03d}_{kind}.nii" for kind in ("image", "label")] for index in range(count)]
    dataset = SliceDataset(
        [Case(f"case{index}", f"patient{index}", *pair) for index, pair in enumerate(paths)],
        load_card("hippocampus"),
        preprocessing(window=(-160, 240)),
        image_size=96,
        augmentation=augmentation(),
        cache_gb=cache_mb / 1024,
    )
    before = dataset.volumes.reads
    loader = DataLoader(dataset, batch_size=32, sampler=dataset.sampler(SLICES), num_workers=0)
    for _ in range(2):
        for _ in loader:
            pass
    reads = (dataset.volumes.reads - before) / 2
    return {"started": started, "peak": peak_mb(), "kept": dataset.volumes.bytes / 2**20, "reads": reads}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--cache-mb", type=float, nargs="+", default=[64, 1024])
    parser.add_argument("--shape", type=int, nargs=3, default=[192, 192, 64])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        sys.stdout.write(json.dumps(load(args.child, args.volumes[0], args.cache_mb[0])))
        return
    one_mb = kept_bytes(int(np.prod(args.shape))) / 2**20
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_volumes(Path(folder), max(args.volumes), args.shape)
        for cache_mb in args.cache_mb:
            for count in args.volumes:
                command = [sys.executable, __file__, "--child", folder]
                command += ["--volumes", str(count), "--cache-mb", str(cache_mb)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                rows.append(
                    f"| {count} | {count * one_mb:.0f} | {cache_mb:.0f} | {found['kept']:.0f} | {found['peak']:.0f} "
                    f"| {found['peak'] - found['started']:.0f} | {found['reads']:.0f} |"
                )
    out = ["| volumes | all would take, MiB | bound, MiB | kept at the end, MiB | peak resident, MiB "]
    out[0] += "| above the imports, MiB | volumes read an epoch |"
    out += ["|---|---|---|---|---|---|---|", *rows, ""]
    out.append(
        f"volumes of {' x '.join(map(str, args.shape))}, {one_mb:.1f} MiB each when kept; two epochs of {SLICES} slices"
    )
    record("loader_memory", out)


if __name__ == "__main__":
    main()
