"""Peak memory and time of a long volume with 13 organs, segmented and evaluated, each in a process of its own.

    python benchmarks/volume_memory.py [--shape 512 512 800] [--spacing-mm 1.0] [--patch-size 32] [--no-detail]
        [--folder DIR]

The volume is made: noise with 13 ellipsoids, int16. The network of sam_lora's defaults, with random weights, segments
it in one look, some seconds a slice; larger patches and no detail branch are quicker. Evaluated is a prediction one
voxel beside the reference. Peaks are what the kernel counts as most resident (ru_maxrss).
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, write_datalist
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import save_weights
from ragsam.networks.sam import BACKBONES
from ragsam.runs.templates import make_run

CARD = "btcv"
SPACING_MM = (0.8, 0.8, 2.0)
AIM_GB = 6.0


def write_volumes(folder: Path, shape: Sequence[int], organs: int) -> Path:
    """Write image, reference and prediction as .nii, and a datalist that names them; return that."""
    draw, affine = np.random.default_rng(0), np.diag([*SPACING_MM, 1.0])
    label = np.zeros(shape, np.uint8, order="F")
    for organ in range(1, organs + 1):
        middle = [draw.uniform(0.2, 0.8) * side for side in shape]
        radii = [draw.uniform(0.04, 0.12) * side for side in shape]
        box = tuple(slice(max(0, int(m - r)), int(m + r) + 1) for m, r in zip(middle, radii, strict=True))
        grid = np.ogrid[box]
        inside = sum(((g - m) / r) ** 2 for g, m, r in zip(grid, middle, radii, strict=True)) < 1
        label[box][inside] = organ
    image = np.empty(shape, np.int16, order="F")
    for z in range(shape[2]):
        image[..., z] = draw.normal(0, 60, shape[:2]) + 15 * label[..., z]
    paths = {"image": folder / "image" / "long.nii", "label": folder / "label" / "long.nii"}
    paths["prediction"] = folder / "prediction" / "long.nii.gz"
    for path, voxels in zip(paths.values(), (image, label, np.roll(label, 1, 0)), strict=True):
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(voxels, affine), path)
    case = Case("long", "someone", paths["image"], paths["label"])
    write_datalist(folder / "datalist.json", CARD, {"test": [case]})
    return folder / "datalist.json"


def write_run(folder: Path, datalist: Path, patch_size: int | None, detail: bool, spacing_mm: float | None) -> Path:
    """Write a run of random weights."""
    options = {"image_size": 512, "patch_size": patch_size, "detail": detail}
    run = make_run("sam_lora", datalist, folder / "run", {**options, "spacing_mm": spacing_mm and [spacing_mm] * 2})
    network = Segmenter(load_card(CARD).num_classes, lora={"rank": 4}, **options)
    save_weights(run / "models" / "model.safetensors", network.trainable_state(), network.about)
    return run


def measured(*arguments: str | Path) -> tuple[float, float]:
    """Run a command of ragsam; return its peak, GB, and its seconds."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "ragsam.cli", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"ragsam {arguments[0]} ended with status {status}")
    return usage.ru_maxrss * 1024 / 1e9, time.monotonic() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 800])
    parser.add_argument("--spacing-mm", type=float, help="resample slices to this (default: as they are)")
    parser.add_argument("--patch-size", type=int, help="of the network (default: the backbone's own)")
    parser.add_argument("--no-detail", dest="detail", action="store_false", help="without the detail branch")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        datalist = write_volumes(folder, args.shape, load_card(CARD).num_classes)
        run = write_run(folder, datalist, args.patch_size, args.detail, args.spacing_mm)
        scored = ("--reference", datalist, "--prediction", folder / "prediction", "--output", folder / "evaluation")
        rows = {
            "segment": measured("segment", run, datalist, "--output", folder / "out", "--no-retrieval"),
            "evaluate": measured("evaluate", *scored, "--jobs", 1),
        }
    lines = ["| command | peak resident, GB | at most 6 GB | seconds |", "|---|---|---|---|"]
    lines += [f"| {n} | {gb:.2f} | {'yes' if gb <= AIM_GB else 'NO'} | {s:.0f} |" for n, (gb, s) in rows.items()]
    slices = f"resampled to {args.spacing_mm} mm" if args.spacing_mm else "as they are"
    lines.append(
        f"\n{' x '.join(map(str, args.shape))} voxels, 13 organs; slices {slices}; vit_tiny, "
        f"patch {args.patch_size or BACKBONES['vit_tiny'].patch_size}, "
        f"{'with' if args.detail else 'without'} detail branch; "
        f"{date.today()}; {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
