"""How well neighbours' labels agree with the query's: Dice of their vote alone, by descriptor and by how they vote.

    python benchmarks/label_vote.py --hippocampus SOURCE --head-neck SOURCE [--run RUN ...]

For banks of 5, 22 and all training patients, every descriptor is searched for the slices of the test patients, and the
neighbours vote pixel on pixel, or with their labels carried over. `embedding` needs a trained run of the set's card.
Dice is of whole volumes on the prepared grid (every third slice on head and neck), a mean over organs and patients.
No network takes part otherwise, nothing is trained. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from ragsam.data.cards import load_card
from ragsam.data.datalist import Case, load_datalist
from ragsam.data.prepare import prepare
from ragsam.data.slices import SliceDataset
from ragsam.metrics.overlap import dice
from ragsam.metrics.statistics import mean_interval
from ragsam.networks.supports import label_prior
from ragsam.retrieval import Retriever
from ragsam.transforms import preprocessing

SETS: dict[str, dict[str, Any]] = {
    "hippocampus": {"image_size": 56, "spacing_mm": None, "stride": 1},
    "openkbp_hn": {"image_size": 96, "spacing_mm": (6.0, 6.0), "stride": 3},
}
BATCH = 8


def slices_of(cases: Sequence[Case], card_name: str) -> SliceDataset:
    """Return the slices of cases as a bank takes them."""
    card, options = load_card(card_name), SETS[card_name]
    chain = preprocessing(window=card.window, spacing_mm=options["spacing_mm"])
    return SliceDataset(cases, card, chain, image_size=options["image_size"])


def loader(dataset: Any) -> DataLoader:
    """Return batches in order."""
    return DataLoader(dataset, BATCH)


@torch.no_grad()
def vote_dice(retriever: Retriever, queries: SliceDataset, card_name: str, encode: Any) -> tuple[dict[str, Any], float]:
    """Return Dice of the vote for the queries' volumes, and milliseconds a slice."""
    card = load_card(card_name)
    votes: dict[str, list[np.ndarray]] = {}
    truths: dict[str, list[np.ndarray]] = {}
    seconds = 0.0
    for batch in loader(Subset(queries, range(0, len(queries), SETS[card_name]["stride"]))):
        start = time.process_time()
        embedding = encode(batch["image"]) if retriever.needs_embedding else None
        vectors = retriever.describe(batch["image"], embedding, batch["height"])
        own = [retriever.bank.own_patients(patient, None) for patient in batch["patient"]]
        supports, _ = retriever.supports(retriever.search(vectors, own), batch["image"])
        vote = label_prior(supports, card.num_classes + 1).argmax(1).numpy()
        seconds += time.process_time() - start
        for index, case in enumerate(batch["case"]):
            votes.setdefault(case, []).append(vote[index])
            truths.setdefault(case, []).append(batch["label"][index, 0].numpy())
    table: dict[str, dict[str, list[float]]] = {}
    for case, annotated in zip(queries.cases, queries.annotated, strict=True):
        voted, truth = np.stack(votes[case.case]), np.stack(truths[case.case])
        for organ in card.organs:
            if annotated[organ.value] and (truth == organ.value).any():
                score = dice(truth == organ.value, voted == organ.value)
                table.setdefault(organ.name, {}).setdefault(case.patient, []).append(score)
    return mean_interval(table), 1000 * seconds / sum(map(len, votes.values()))


def encoder_of(run: Path) -> Any:
    """Return what embeds slices as a run's network does."""
    from monai.bundle import ConfigParser

    from ragsam.workflows.checkpoint_handler import WeightsLoader
    from ragsam.workflows.retrieval_handler import encoding

    parser = ConfigParser()
    parser.read_config(str(run / "configs" / "train.yaml"))
    parser["bundle_root"] = str(run.absolute())
    network = parser.get_parsed_content("network")
    WeightsLoader(network, parser.get_parsed_content("weights")).load()
    return partial(encoding, network)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hippocampus", type=Path, help="folder with imagesTr, labelsTr and subjects.csv")
    parser.add_argument("--head-neck", type=Path, help="folder with images, labels and manifest.csv")
    parser.add_argument("--run", type=Path, nargs="+", default=[], help="trained runs, whose encoders describe slices")
    parser.add_argument("--patients", type=int, nargs="+", default=[5, 22, 0], help="in the bank; 0: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoders = {load_card(run / "configs" / "card.yaml").name: encoder_of(run) for run in args.run}
    lines = [
        "| set | patients in the bank | descriptor | vote | Dice (95 % interval) | ms a slice |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, source, options in (
            ("hippocampus", args.hippocampus, {}),
            ("openkbp_hn", args.head_neck, {"validation": 4, "test": 8}),
        ):
            if source is None:
                continue
            data = load_datalist(prepare(name, source, Path(folder) / f"{name}.json", **options))
            queries = slices_of(data.section("test"), name)
            for count in args.patients:
                names = list(dict.fromkeys(case.patient for case in data.section("training")))[: count or None]
                bank = slices_of([case for case in data.section("training") if case.patient in names], name)
                for descriptor in ("thumbnail", "centred", *(["embedding"] if name in encoders else [])):
                    for carry in (False, True):
                        retriever = Retriever(descriptor=descriptor, carry=carry)
                        retriever.build(loader(bank), {}, encoders.get(name))
                        score, ms = vote_dice(retriever, queries, name, encoders.get(name))
                        low, high = score["ci95"]
                        lines.append(
                            f"| {name}, {score['n']} patients | {count or 'all'} | {descriptor} "
                            f"| {'carried over' if carry else 'pixel on pixel'} "
                            f"| **{score['mean']:.3f}** ({low:.3f} to {high:.3f}) | {ms:.1f} |"
                        )
                        sys.stderr.write(lines[-1] + "\n")
    lines.append(f"\n{date.today()}; one of {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
