"""What retrieval costs beside the encoder: describing, searching 100,000 slices, carrying labels over, and the fusion.

    python benchmarks/retrieval_cost.py [--slices 100000]

24 neighbours, `vit_b` at 512 pixels and `vit_tiny` at 64, 9 classes, random weights, made descriptors in clusters by
patient; one thread, the process's own clock, everything in one run, the fastest of a few rounds. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import torch

from ragsam.console.malloc import keep_freed_memory
from ragsam.networks import Segmenter
from ragsam.retrieval import Bank, Retriever

CASES = (("vit_b", 512, 1, 4), ("vit_tiny", 64, 16, 5))
CLASSES = 9
#: As the bundles have it.
NEIGHBOURS = 24


def seconds(job: Callable[[], Any], rounds: int) -> float:
    """Return the processor's seconds that a job takes at its fastest."""
    took = []
    for _ in range(rounds):
        start = time.process_time()
        job()
        took.append(time.process_time() - start)
    return min(took)


def made_bank(count: int, size: int, width: int) -> Bank:
    """Return a bank of so many slices: descriptors of their own, one label map and one picture for all."""
    rng = np.random.default_rng(0)
    patients = np.arange(count) // 250
    vectors = rng.normal(size=(patients.max() + 1, width))[patients] + 0.3 * rng.normal(size=(count, width))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    label = np.zeros((size, size), np.uint8)
    label[size // 4 : size // 2, size // 4 : size // 2] = 3
    side = min(size, 96)
    picture = (rng.random((side, side)) * 255).astype(np.uint8)
    present = np.broadcast_to(np.arange(CLASSES) < CLASSES, (count, CLASSES))
    names = np.array([f"p{number}" for number in patients])
    return Bank(
        vectors,
        np.broadcast_to(label, (count, size, size)),
        names,
        names,
        np.arange(count) % 250,
        (np.arange(count) % 250) / 249,
        {},
        images=np.broadcast_to(picture, (count, side, side)),
        present=present,
    )


@torch.no_grad()
def measure(backbone: str, size: int, batch: int, rounds: int, count: int) -> str:
    """Return a network's row."""
    network = Segmenter(CLASSES - 1, backbone=backbone, image_size=size).eval()
    retriever = Retriever(descriptor="centred", neighbours=NEIGHBOURS, carry=True)
    image, height = torch.rand(batch, 3, size, size), torch.rand(batch)
    vectors = retriever.describe(image, None, height)
    retriever.attach(made_bank(count, size, vectors.shape[1]))
    found = retriever.search(vectors, [{"p0"}] * batch)
    supports, _ = retriever.supports(found, image)
    embedded = network.embed(image)
    encode = seconds(lambda: network.embed(image), rounds)
    search = seconds(lambda: retriever.search(retriever.describe(image, None, height), [{"p0"}] * batch), rounds)
    carry = seconds(lambda: retriever.supports(found, image), rounds)
    plain = seconds(lambda: network.decode(embedded), rounds)
    fusion = max(0.0, seconds(lambda: network.decode(embedded, supports), rounds) - plain)
    parts = [1000 * part / batch for part in (encode, search, carry, fusion)]
    share = sum(parts[1:]) / parts[0]
    told = " | ".join(f"{part:.1f}" for part in parts)
    return f"| {backbone}, {size} pixels, batches of {batch} | {told} | **{share:.1%}** |"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=100_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as every command does
    import faiss

    faiss.omp_set_num_threads(1)
    sys.stdout.write("| network | encoder, ms a slice | finding | carrying | fusion | of the encoder's time |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for backbone, size, batch, rounds in CASES:
        sys.stdout.write(measure(backbone, size, batch, rounds, args.slices) + "\n")
    where = f"one of {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    sys.stdout.write(f"\n{date.today()}; {args.slices} slices in the bank; {where}\n")


if __name__ == "__main__":
    main()
