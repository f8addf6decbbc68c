"""Slices a second: cut on the fly from volumes in memory, against slices read from npz files as SAMed keeps them.

    python benchmarks/loader_npz.py [--volumes 8] [--enlarge 1] [--slices 1600] [--datalist DATALIST]

The npz files (image float32, label uint8, one slice each, uncompressed, as numpy.savez writes them) are made from the
same volumes in a temporary folder. Both loaders give items of the same size, through the same random crop and
augmentation, in batches of 32, and take turns. Without a datalist phantoms are made, their slices enlarged by a
whole factor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import DataLoader
from record import record
from torch.utils.data import Dataset

from ragsam.data.cards.load import Card, load_card
from ragsam.data.datalist import Case, load_datalist
from ragsam.data.phantom.write import make_phantom
from ragsam.data.slices import SliceDataset
from ragsam.transforms import augmentation, preprocessing

BATCH_SIZE = 32
ROUNDS = 3


class NpzSlices(Dataset):
    """One npz file a slice, repeated as three channels, as SAMed's loader has it."""

    def __init__(self, paths: Sequence[Path], like: SliceDataset) -> None:
        self.paths = paths
        self.like = like

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        with np.load(self.paths[index]) as data:
            image, label = torch.from_numpy(data["image"]), torch.from_numpy(data["label"])
        item = {"image": image.expand(3, *image.shape), "label": label[None].float(), "annotated": torch.ones(1)}
        item = self.like.augment([item])[0]
        return {"image": item["image"].clamp(0, 1), "label": item["label"].long()}


def write_phantoms(folder: Path, count: int, enlarge: int) -> list[Case]:
    """Write phantoms whose slices are enlarged."""
    cases = []
    for seed in range(count):
        image, label, affine = make_phantom(seed)
        paths = [folder / f"{seed}_{kind}.nii.gz" for kind in ("image", "label")]
        for path, array in zip(paths, (image, label), strict=True):
            array = array.repeat(enlarge, 0).repeat(enlarge, 1)
            nib.save(nib.Nifti1Image(array, affine @ np.diag([1 / enlarge, 1 / enlarge, 1, 1])), path)
        cases.append(Case(f"case{seed}", f"patient{seed}", *paths))
    return cases


def write_npz(dataset: SliceDataset, folder: Path) -> list[Path]:
    """Write every slice of a dataset's volumes as SAMed's preparation does; the order is that of its keys."""
    paths = []
    for number, key in enumerate(dataset.keys):
        image, label = dataset.volumes[key.case]
        paths.append(folder / f"{number:06d}.npz")
        np.savez(
            paths[-1], image=image[..., key.slice].float().numpy().copy(), label=label[..., key.slice].numpy().copy()
        )
    return paths


def bytes_written() -> int:
    """Return the bytes that this process has passed to write calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


def epoch_seconds(dataset: Dataset, sampler: Any) -> tuple[float, int]:
    """Return the seconds of an epoch, and the bytes written in it."""
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, sampler=sampler, num_workers=0)
    written, start = bytes_written(), time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start, bytes_written() - written


def measure(cases: Sequence[Case], card: Card, slices: int, folder: Path) -> list[str]:
    """Return the rows of the table."""

    def make(context_slices: int, cache_gb: float) -> SliceDataset:
        return SliceDataset(
            cases,
            card,
            preprocessing(window=card.window),
            image_size=size,
            context_slices=context_slices,
            augmentation=augmentation(),
            cache_gb=cache_gb,
        )

    size = 16 * max(1, min(32, -(-max(max(nib.load(case.image).shape[:2]) for case in cases) // 16)))
    start = time.perf_counter()
    repeated = make(0, 64.0)
    prepared = time.perf_counter() - start
    total_bytes = repeated.volumes.bytes
    start = time.perf_counter()
    paths = write_npz(repeated, folder)
    exported = time.perf_counter() - start
    npz_bytes = sum(path.stat().st_size for path in paths)
    loaders: dict[str, tuple[Dataset, Callable[[], Any]]] = {
        "npz slices": (NpzSlices(paths, repeated), lambda: repeated.sampler(slices)),
        "ours, the slice repeated": (repeated, lambda: repeated.sampler(slices)),
    }
    adjacent, small = make(1, 64.0), make(1, total_bytes / 4 / 2**30)
    loaders["ours, with its neighbours"] = (adjacent, lambda: adjacent.sampler(slices))
    loaders["ours, a quarter of the volumes in memory"] = (small, lambda: small.sampler(slices))
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    written = dict.fromkeys(loaders, 0)
    for _ in range(ROUNDS):
        for name, (dataset, sampler) in loaders.items():
            taken, wrote = epoch_seconds(dataset, sampler())
            seconds[name].append(taken)
            written[name] += wrote
    written["npz slices"] += npz_bytes
    once = dict.fromkeys(loaders, prepared) | {"npz slices": prepared + exported}
    rows = [
        f"| {name} | {slices / np.median(taken):.0f} | {slices / max(taken):.0f} to {slices / min(taken):.0f} "
        f"| {once[name]:.1f} | {written[name] / 2**20:.1f} |"
        for name, taken in seconds.items()
    ]
    return [f"{len(cases)} volumes, {len(paths)} slices, items of {size} x {size}:", "", *HEADER, *rows]


HEADER = ["| loader | slices a second (median) | range | s to prepare, once | MiB written |", "|---|---|---|---|---|"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--enlarge", type=int, default=1, help="of the phantoms' slices, which are about 78 x 68")
    parser.add_argument("--slices", type=int, default=1600, help="an epoch")
    parser.add_argument("--datalist", type=Path, help="its training section is taken instead of phantoms")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.datalist is None:
            card, cases = load_card("phantom"), write_phantoms(folder, args.volumes, args.enlarge)
        else:
            data = load_datalist(args.datalist)
            card, cases = load_card(data.card), list(data.section("training"))[: args.volumes]
        lines = measure(cases, card, args.slices, folder)
    about = f"{ROUNDS} epochs of {args.slices} slices each, in turns; {torch.get_num_threads()} threads"
    record("loader_npz", [*lines, "", about])


if __name__ == "__main__":
    main()
