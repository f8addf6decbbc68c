"""The index: recall, time and memory of each vector store at many slices, as a Markdown table.

    nice -19 python benchmarks/vector_store.py --slices 100000 1000000

Descriptors are made: 250 slices a patient along a smooth path through 128 dimensions of falling variance, which all
patients share, with a smooth deviation of each patient's own and a little noise; then the height on an arc, as in
`ragsam.retrieval.descriptors`. Half of the queries are slices of patients who are not in the bank, half of patients who
are, left out by a mask. Every store runs in a process of its own, whose growth is its memory (the vectors, which a bank
holds anyway, are not counted).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from math import pi
from pathlib import Path

import numpy as np

from ragsam.retrieval.descriptors import HEIGHT_WEIGHT
from ragsam.retrieval.store import STORES, make_store

SLICES_A_PATIENT, WIDTH, WAVES, NEIGHBOURS = 250, 128, 6, 8


def made_descriptors(patients: int, seed: int, anatomy_seed: int = 0) -> np.ndarray:
    """Return unit descriptors [patients * 250, 130] of synthetic patients, who share the anatomy of a seed."""
    height = np.linspace(0, 1, SLICES_A_PATIENT, dtype=np.float32)
    waves = np.stack([np.cos(pi * wave * height) / (1 + wave) for wave in range(WAVES)], 1)  # [250, WAVES]
    spread = (1 / np.sqrt(1 + np.arange(WIDTH))).astype(np.float32)
    anatomy = waves @ (np.random.default_rng(anatomy_seed).normal(size=(WAVES, WIDTH)) * spread)
    draw, parts = np.random.default_rng(seed), []
    arc = HEIGHT_WEIGHT * np.stack([np.cos(pi * height), np.sin(pi * height)], 1)
    for _ in range(patients):
        own = waves @ (draw.normal(size=(WAVES, WIDTH)) * spread)
        content = anatomy + 0.6 * own + 0.1 * spread * draw.normal(size=(SLICES_A_PATIENT, WIDTH))
        content /= np.linalg.norm(content, axis=1, keepdims=True)
        parts.append(np.concatenate([content, arc], 1) / np.sqrt(1 + HEIGHT_WEIGHT**2))
    return np.concatenate(parts).astype(np.float32)


def resident_mb() -> float:
    """Return this process's resident memory, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3


def queries_of(vectors: np.ndarray, count: int) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Return queries [count, 130], half of patients in the bank, and the mask of each."""
    draw, half = np.random.default_rng(7), count // 2
    strangers = made_descriptors(max(half // 10, 1), seed=99)
    strangers = strangers[draw.choice(len(strangers), half, replace=False)]
    rows = draw.choice(len(vectors), count - half, replace=False)
    masks: list[np.ndarray | None] = [None] * half
    for row in rows:
        mask = np.ones(len(vectors), bool)
        first = row // SLICES_A_PATIENT * SLICES_A_PATIENT
        mask[first : first + SLICES_A_PATIENT] = False
        masks.append(mask)
    return np.concatenate([strangers, vectors[rows]]), masks


def measure(kind: str, slices: int, count: int, settings: dict[str, int]) -> dict[str, float]:
    """Build a store and search it."""
    vectors = made_descriptors(slices // SLICES_A_PATIENT, seed=1)
    queries, masks = queries_of(vectors, count)
    for name, value in settings.items():
        setattr(STORES[kind], name, value)
    before, start = resident_mb(), time.perf_counter()
    store = make_store(vectors, kind)
    result = {"build_s": time.perf_counter() - start, "memory_mb": resident_mb() - before}
    half = count // 2
    for name, chosen in (("strangers", slice(0, half)), ("own", slice(half, count))):
        found = store.search(queries[chosen], NEIGHBOURS, masks[chosen])[1]
        true = np.concatenate([store.compare_all(q[None], NEIGHBOURS, m)[1]
                               for q, m in zip(queries[chosen], masks[chosen], strict=True)])  # fmt: skip
        shared = [len(set(a) & set(b)) for a, b in zip(found, true, strict=True)]
        result[f"recall_{name}"] = sum(shared) / true.size
    for batch in (1, 16):
        result[f"ms_{batch}"] = ms_a_query(store, queries[:half], None, batch)
        result[f"ms_{batch}_own"] = ms_a_query(store, queries[half:], masks[half:], batch)
    return result


def ms_a_query(store, queries: np.ndarray, masks: list[np.ndarray | None] | None, batch: int) -> float:
    """Return the median time of a batch over its queries, ms. A batch shares a mask, as a volume's slices do."""
    times = []
    for start in range(0, min(len(queries), 20 * batch) - batch + 1, batch):
        own = None if masks is None else [masks[start]] * batch
        clock = time.perf_counter()
        store.search(queries[start : start + batch], NEIGHBOURS, own)
        times.append((time.perf_counter() - clock) / batch * 1e3)
    return float(np.median(times))


def main() -> None:
    """Print a row a store and size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[100_000])
    parser.add_argument("--stores", nargs="+", default=list(STORES), choices=list(STORES))
    parser.add_argument("--queries", type=int, default=640)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=N", help="such as candidates=128")
    args = parser.parse_args()
    settings = {name: int(value) for name, value in (text.split("=") for text in args.set)}
    head = ["slices", "store", "recall@8", "own left out", "build s", "ms", "ms of 16", "own: ms", "of 16", "memory MB"]
    sys.stdout.write("| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n")
    for slices in args.slices:
        for kind in args.stores:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                r = pool.apply(measure, (kind, slices, args.queries, settings))
            cells = [slices, kind, f"{r['recall_strangers']:.4f}", f"{r['recall_own']:.4f}", f"{r['build_s']:.1f}"]
            cells += [f"{r[name]:.2f}" for name in ("ms_1", "ms_16", "ms_1_own", "ms_16_own")]
            cells += [f"{r['memory_mb']:.0f}"]
            sys.stdout.write("| " + " | ".join(map(str, cells)) + " |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
