"""How fast a bank of embedding descriptors is built, beside the encoder alone on the same slices, as a Markdown table.

python benchmarks/bank_speed.py --data DATALIST --volumes 40
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import default_collate

from ragsam.console.malloc import keep_freed_memory
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.data.slices import SliceDataset
from ragsam.inference.bank_building import bank_batches
from ragsam.networks.segmenter import Segmenter
from ragsam.retrieval.bank_writer import BankWriter
from ragsam.retrieval.retriever import Retriever
from ragsam.transforms import preprocessing

BATCH = 32


def main() -> None:
    """Print the table; encoder and bank take turns, so that a busy machine slows both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DATALIST")
    parser.add_argument("--volumes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()  # as every command does
    data = load_datalist(args.data)
    card = load_card(data.card)
    make = partial(SliceDataset, card=card, preprocessing=preprocessing(window=card.window), image_size=64)
    cases = data.section("training")[: args.volumes]
    network, retriever = (
        Segmenter(card.num_classes, image_size=64).eval(),
        Retriever(descriptor="embedding", neighbours=8, carry=False),
    )
    dataset = make(cases)
    batches = [default_collate([dataset[i]["image"] for i in range(start, min(start + BATCH, len(dataset)))])
               for start in range(0, len(dataset), BATCH)]  # fmt: skip
    sys.stdout.write("| slices | encoder alone, s | bank, s | with reading and checking the volumes, s | share |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for _ in range(args.rounds):
        start = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                network.encode(batch)
        encoded = time.perf_counter() - start
        start = time.perf_counter()
        fresh = make(cases)
        read = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder, BankWriter(folder, {}, keeps=retriever.keeps) as writer:
            for batch in bank_batches(retriever, network, fresh, BATCH):
                writer.add(batch)
            writer.commit()
        total = time.perf_counter() - start
        built = total - read
        shares = f"{encoded / built:.2f} ({encoded / total:.2f})"
        sys.stdout.write(f"| {len(fresh)} | {encoded:.1f} | {built:.1f} | {total:.1f} | {shares} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
