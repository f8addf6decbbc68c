"""A volume in, its labels out: ours against a loop as SAMed's, the same weights, in turns.

    OMP_NUM_THREADS=1 python benchmarks/whole_volume.py [--backbone vit_b] [--slices 3] [--rounds 3]

The volume is made, 512 x 512 pixels a slice, and in memory on both sides; weights are random, 8 organs, LoRA of rank 4.
The peer (`benchmarks/samed.py`) goes slice by slice. It is timed without zooms, on the very slices that ours sees, and
as it is published, through 224 x 224 pixels: then it sees other slices, and its labels differ. Seconds are the
processor's, medians of all rounds. Returns 1 where less than 99.9 % of the voxels agree or a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from record import record
from samed import SIZE, ours, segment, theirs, write_weights
from scipy.ndimage import gaussian_filter

from ragsam.networks import Segmenter
from ragsam.workflows.inferers import VolumeInferer

TARGET, ALIKE = 1.4, 0.999
PLAIN, OURS = "SAMed's loop, no zooms", "ours"


def made_volume(slices: int) -> NDArray[np.float32]:
    """Return [H, W, D], float, 0-1: blurred noise with some more on top."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(SIZE, SIZE, slices)), (12, 12, 1))
    noisy = smooth / smooth.std() + 0.1 * rng.normal(size=smooth.shape)
    return ((noisy - noisy.min()) / np.ptp(noisy)).astype(np.float32)


def encoder_clock(network: Segmenter) -> list[float]:
    """Return a list that gets the seconds of every call of the network's encoder."""
    seconds, started = [], []
    encoder = network.sam.image_encoder
    encoder.register_forward_pre_hook(lambda *_: started.append(time.process_time()))
    encoder.register_forward_hook(lambda *_: seconds.append(time.process_time() - started.pop()))
    return seconds


def main() -> int:
    """Measure, print the table, and return 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_b")
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_weights(Path(name), args.backbone)
        network, peer = (build(Path(name), args.backbone).eval() for build in (ours, theirs))
    volume = made_volume(args.slices)
    encoding = encoder_clock(network)

    def segmented(precision: str) -> NDArray[np.uint8]:
        inferer = VolumeInferer(SIZE, context_slices=0, precision=precision)
        return inferer(torch.from_numpy(volume)[None, None], network)[0, 0].numpy()

    sides: dict[str, Callable[[], NDArray[np.uint8]]] = {
        PLAIN: lambda: segment(peer, volume, SIZE),
        "SAMed's loop, through 224": lambda: segment(peer, volume, 224),
        OURS: lambda: segmented("float32"),
        "ours, bfloat16": lambda: segmented("bfloat16"),
        "ours, int8": lambda: segmented("int8"),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    labels, shares = {}, []
    with torch.inference_mode():
        network(torch.zeros(1, 3, SIZE, SIZE))
        for _ in range(args.rounds):
            for side, job in sides.items():
                encoding.clear()
                start = time.process_time()
                labels[side] = job()
                times[side].append(time.process_time() - start)
                if side == OURS:
                    shares.append(sum(encoding) / times[side][-1])
    seconds = {side: statistics.median(found) / args.slices for side, found in times.items()}
    alike = {side: float((found == labels[PLAIN]).mean()) for side, found in labels.items()}
    lines = [
        f"| {args.backbone} | s a slice | times as fast as the loop without zooms | same voxels |",
        "|---|---|---|---|",
    ]
    lines += [f"| {s} | {t:.2f} | {seconds[PLAIN] / t:.2f} | {alike[s]:.5f} |" for s, t in seconds.items()]
    lines += [
        "",
        f"{args.slices} slices, {args.rounds} rounds in turns, {torch.get_num_threads()} threads; classes in ",
    ]
    lines[-1] += (
        f"the labels: {len(np.unique(labels[PLAIN]))}; the encoder holds {statistics.median(shares):.1%} of ours"
    )
    record("whole_volume", lines)
    return int(seconds[PLAIN] / seconds[OURS] < TARGET or alike[OURS] < ALIKE)


if __name__ == "__main__":
    raise SystemExit(main())
