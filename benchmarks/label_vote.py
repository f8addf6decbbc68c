"""How well neighbours' labels agree with the query's: Dice of their vote alone, by descriptor, number and kind of vote.

    python benchmarks/label_vote.py --hippocampus SOURCE --head-neck SOURCE [--run RUN ...]

For banks of 5, 22 and all training patients every descriptor is searched for the slices of the test patients, and so
many neighbours as are named vote pixel on pixel, or with their labels carried over. Beside the package's own
descriptors stand those that it has not: `centred` without the height; of a trained run of the set's card the embedding
without the height, or pooled at 1, 2 and 4; and `trained`, a linear map of `centred` learnt on the bank so that cosines
tell the overlap of labels.
Dice is of whole volumes on the prepared grid (every third slice on head and neck), a mean over organs and patients; a
vote for an organ counts as often as the bank's agreement says. With a run, slices are prepared as its own. Prints a
Markdown table.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from trials import two_set_parser

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, load_datalist
from ragsam.data.preparation.prepare import prepare
from ragsam.data.slices import SliceDataset
from ragsam.metrics.overlap import dice
from ragsam.metrics.statistics import mean_interval
from ragsam.networks.supports import label_prior, vote_shares
from ragsam.retrieval import Bank, Retriever
from ragsam.retrieval.descriptors import DESCRIPTORS, Descriptor
from ragsam.transforms import preprocessing

SETS: dict[str, dict[str, Any]] = {
    "hippocampus": {"image_size": 56, "spacing_mm": None, "stride": 1},
    "openkbp_hn": {"image_size": 96, "spacing_mm": (6.0, 6.0), "stride": 3},
}
BATCH = 8
#: Of the learnt map: its outputs, steps, pairs a step, and the learning rate.
WIDTH, STEPS, PAIRS, RATE = 64, 600, 512, 3e-3
HEIGHT = 2  # numbers of a descriptor that are its height, at the end


def slices_of(cases: Sequence[Case], card_name: str) -> SliceDataset:
    """Return the slices of cases as a bank takes them, axial ones, with a neighbour on each side."""
    card, options = load_card(card_name), SETS[card_name]
    chain = preprocessing(window=card.window, spacing_mm=options["spacing_mm"])
    return SliceDataset(cases, card, chain, image_size=options["image_size"])


def loader(dataset: Any) -> DataLoader:
    """Return batches in order."""
    return DataLoader(dataset, BATCH)


def without_height(vectors: Tensor) -> Tensor:
    """Return descriptors [B, D] of content alone."""
    return F.normalize(vectors[:, :-HEIGHT])


def at_every_scale(embedding: Tensor) -> Tensor:
    """Return embeddings pooled at 1, 2 and 4: [B, D], unit length."""
    pooled = [F.adaptive_avg_pool2d(embedding, side).flatten(1) for side in (1, 2, 4)]
    return F.normalize(torch.cat([F.normalize(level - level.mean(1, keepdim=True)) for level in pooled], dim=1))


def learn_overlap(bank: Bank) -> torch.nn.Linear:
    """Return a map of a bank's descriptors after which cosines are near the overlap of labels.

    The overlap of two slices of different patients is the mean Dice of the organs that either has, both slices' labels
    being moved so that their middle is that of the picture; 0 where one has no organ, 1 where neither has.
    """
    vectors = torch.from_numpy(np.asarray(bank.descriptors))
    masks = torch.stack([centred_labels(labels, bank.present.shape[1]) for labels in np.asarray(bank.labels)])
    patients = np.unique(bank.patients, return_inverse=True)[1]
    generator, patients = torch.Generator().manual_seed(0), torch.from_numpy(patients)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Linear(vectors.shape[1], WIDTH, bias=False)
    optimizer = torch.optim.Adam(layer.parameters(), RATE)
    for _ in range(STEPS):
        first, second = torch.randint(len(vectors), (2, PAIRS), generator=generator)
        kept = patients[first] != patients[second]
        first, second = first[kept], second[kept]
        both = (masks[first] * masks[second]).sum((2, 3))
        either = masks[first].sum((2, 3)) + masks[second].sum((2, 3))
        present = either > 0
        overlap = (2 * both / either.clamp_min(1)).sum(1) / present.sum(1).clamp_min(1)
        overlap = torch.where(present.any(1), overlap, torch.ones_like(overlap))
        cosine = F.cosine_similarity(layer(vectors[first]), layer(vectors[second]))
        optimizer.zero_grad()
        F.mse_loss(cosine, overlap).backward()
        optimizer.step()
    return layer.requires_grad_(False)


def centred_labels(labels: np.ndarray, classes: int) -> Tensor:
    """Return one-hot labels [K, s, s] of a slice [S, S] at a quarter of its side, moved to the middle."""
    rows, columns = np.nonzero(labels)
    if len(rows):
        middle = (labels.shape[0] - 1) / 2
        labels = np.roll(labels, [round(middle - rows.mean()), round(middle - columns.mean())], (0, 1))
    one_hot = F.one_hot(torch.from_numpy(labels.astype(np.int64)), classes)[..., 1:].permute(2, 0, 1).float()
    return F.adaptive_avg_pool2d(one_hot, labels.shape[0] // 4)


@torch.no_grad()
def vote_dice(retriever: Retriever, queries: SliceDataset, card_name: str, encode: Any) -> tuple[dict[str, Any], float]:
    """Return Dice of the vote for the queries' volumes, and milliseconds a slice."""
    card = load_card(card_name)
    votes: dict[str, list[np.ndarray]] = {}
    truths: dict[str, list[np.ndarray]] = {}
    seconds, boost = 0.0, retriever.agreement.boost
    for batch in loader(Subset(queries, range(0, len(queries), SETS[card_name]["stride"]))):
        start = time.process_time()
        embedding = encode(batch["image"]) if retriever.needs_embedding else None
        vectors = retriever.describe(batch["image"], embedding, batch["height"])
        own = [retriever.bank.own_patients(patient, None) for patient in batch["patient"]]
        supports, _ = retriever.supports(retriever.search(vectors, own), batch["image"])
        vote = vote_shares(label_prior(supports, card.num_classes + 1), boost).argmax(1).numpy()
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


def candidates(bank: Bank, *, encoder: bool) -> dict[str, Descriptor]:
    """Return the descriptors to compare, by name; those that look at an encoder if there is one."""
    layer, own = learn_overlap(bank), DESCRIPTORS["centred"].describe
    found = {name: DESCRIPTORS[name] for name in ("thumbnail", "centred")}
    found["centred, no height"] = Descriptor(lambda *slices: without_height(own(*slices)), needs_embedding=False)
    found["trained"] = Descriptor(lambda *slices: F.normalize(layer(own(*slices))), needs_embedding=False)
    if encoder:
        pooled = DESCRIPTORS["embedding"]
        found["embedding"] = pooled
        found["embedding, no height"] = Descriptor(
            lambda *slices: without_height(pooled.describe(*slices)), needs_embedding=True
        )
        found["embedding, 1 + 2 + 4"] = Descriptor(
            lambda image, embedding, height: at_every_scale(embedding), needs_embedding=True
        )
    return found


def encoder_of(run: Path) -> Any:
    """Return what embeds slices as a run's network does; those of its set are prepared as the run's from now on."""
    from monai.bundle import ConfigParser

    from ragsam.inference.bank_building import encoding
    from ragsam.runs.weights import WeightsLoader

    parser = ConfigParser()
    parser.read_config(str(run / "configs" / "train.yaml"))
    parser["bundle_root"] = str(run.absolute())
    network = parser.get_parsed_content("network")
    WeightsLoader(network, parser.get_parsed_content("weights")).load()
    card = load_card(run / "configs" / "card.yaml").name
    SETS[card] |= {name: parser.get_parsed_content(name) for name in ("image_size", "spacing_mm")}
    return partial(encoding, network)


def main() -> None:
    """Run the benchmark."""
    parser = two_set_parser(__doc__)
    parser.add_argument("--run", type=Path, nargs="+", default=[], help="trained runs, whose encoders describe slices")
    parser.add_argument("--patients", type=int, nargs="+", default=[5, 22, 0], help="in the bank; 0: all")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[24])
    parser.add_argument("--descriptors", nargs="+", help="those to compare; all, if none is named")
    args = parser.parse_args()
    torch.set_num_threads(1)
    encoders = {load_card(run / "configs" / "card.yaml").name: encoder_of(run) for run in args.run}
    lines = [
        "| set | patients in the bank | descriptor | neighbours | vote | Dice (95 % interval) | ms a slice |",
        "|---|---|---|---|---|---|---|",
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
                retriever = Retriever(descriptor="centred", neighbours=8, carry=False)
                tried = candidates(retriever.build(loader(bank), {}), encoder=name in encoders)
                for descriptor in args.descriptors or tried:
                    DESCRIPTORS[descriptor] = tried[descriptor]
                    for neighbours, carry in product(args.neighbours, (False, True)):
                        retriever = Retriever(descriptor=descriptor, neighbours=neighbours, carry=carry)
                        retriever.build(loader(bank), {}, encoders.get(name))
                        score, ms = vote_dice(retriever, queries, name, encoders.get(name))
                        low, high = score["ci95"]
                        lines.append(
                            f"| {name}, {score['n']} patients | {count or 'all'} | {descriptor} | {neighbours} "
                            f"| {'carried over' if carry else 'pixel on pixel'} "
                            f"| **{score['mean']:.3f}** ({low:.3f} to {high:.3f}) | {ms:.1f} |"
                        )
                        sys.stderr.write(lines[-1] + "\n")
    lines.append(f"\n{date.today()}; one of {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
