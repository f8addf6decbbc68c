"""What a bank alone segments, without training: the vote, and the vote sharpened by prompts to a network.

    python benchmarks/training_free.py --hippocampus SOURCE --head-neck SOURCE --output runs/training_free

Banks of a few patients are made as `ragsam index --data` makes them, and test patients segmented as by `ragsam segment
--card`, in all ways at once. Dice is of whole volumes on the images' own grid, a mean over organs and patients, with
intervals over patients. There are no pretrained weights here to prompt: a `vit_tiny` that answers prompts is trained
from scratch on the organs that are "known", minutes on one core, and prompted for all; the others are new to it.
Several draws of a bank's patients are averaged by patient first. Finished banks stand in the output folder and are not
segmented by again. `--sweep` prints instead what the choices of the sharpening are worth, on validation patients, and
`--vote-alone` what the vote is worth, no network being trained.
Adds to results/training_free.md.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from record import record
from torch import Tensor
from trials import two_set_parser

from ragsam.api.index import index_run
from ragsam.data.annotation import annotated_classes
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, Datalist, load_datalist, write_datalist
from ragsam.data.preparation.prepare import prepare
from ragsam.data.volumes import VolumeDataset
from ragsam.files import write_json_atomic
from ragsam.inference.volume_supports import VolumeSupports
from ragsam.io.documents import read_json
from ragsam.metrics.overlap import dice
from ragsam.metrics.statistics import mean_interval, paired_difference
from ragsam.networks.supports import Supports
from ragsam.prompting.prompted_vote import KINDS, LEAST_OVERLAP, PART, PromptedVote, load_answering, mixed, objects_of
from ragsam.retrieval import Bank
from ragsam.retrieval.voting import VotingNetwork
from ragsam.runs.bank_only import BUNDLE, segment_values
from ragsam.runs.run import run_config
from ragsam.runs.templates import find_bundle, make_run
from ragsam.transforms import preprocessing

SETS: dict[str, dict[str, Any]] = {
    "openkbp_hn": {
        "bank": {"image_size": 96, "spacing_mm": [6.0, 6.0]},
        "batch_size": 12,
        "steps": 360,
        "known": ("brainstem", "spinal_cord", "esophagus", "larynx", "mandible"),
        "patients": (1, 2, 5, 22),
        "split": {"validation": 4, "test": 8},
    },
    "hippocampus": {
        "bank": {"image_size": 56},
        "batch_size": 16,
        "steps": 260,
        "known": ("anterior",),
        "patients": (1, 2, 5, 20, 0),
        "split": {},
    },
}
EPOCHS = 4
VOTE = "vote alone"
#: What the network is prompted by, its part in the mean, and the least overlap; the first is what is stated.
WAYS = [
    (KINDS, PART, LEAST_OVERLAP),
    *itertools.product((KINDS,), (0.25, 1.0), (0.5,)),
    *itertools.product((KINDS,), (0.5,), (0.0, 0.75)),
    *itertools.product((("mask",), ("box",), ("mask", "box"), ("mask", "point")), (0.5, 1.0), (0.5,)),
]


class Ways(PromptedVote):
    """Gives the logits of the vote alone, and those of some ways to sharpen it: [B, (1 + W) (K + 1), H, W].

    Args:
        ways: of `WAYS`.
    """

    def __init__(self, ways: Sequence[tuple[tuple[str, ...], float, float]], **options: Any) -> None:
        super().__init__(**options)
        self.ways = ways

    def forward(self, image: Tensor, supports: Supports | None = None) -> Tensor:
        """Return the logits of all ways."""
        vote = VotingNetwork.forward(self, image, supports)
        objects, answers, logits = objects_of(vote), {}, [vote]
        for kinds, part, least in self.ways:
            if kinds not in answers:
                self.kinds = kinds
                answers[kinds] = self.answers(image, vote, objects)
            logits.append(mixed(vote, objects, answers[kinds], part=part, least_overlap=least))
        return torch.cat(logits, dim=1)


def answering_run(data: Datalist, name: str, folder: Path) -> Path:
    """Return a run that was trained to answer prompts for the known organs of a set."""
    options, run = SETS[name], folder / "run"
    if not (run / "models").exists():
        shutil.rmtree(run, ignore_errors=True)
        known = options["known"]
        sections = {
            section: [
                replace(case, annotated=tuple(o for o in known if case.annotated is None or o in case.annotated))
                for case in cases
            ]
            for section, cases in {
                "training": data.section("training"),
                "validation": data.section("validation")[:1],  # nothing is chosen by it
            }.items()
        }
        write_datalist(folder / "known.json", data.card, sections)
        training = {"batch_size": options["batch_size"], "steps_per_epoch": options["steps"] // EPOCHS}
        network = {"prompts": "trained", "retrieval": False, "fusion": None}
        settings = {**options["bank"], **training, **network, "epochs": EPOCHS, "validate_every": EPOCHS}
        run_config(make_run("sam_lora", folder / "known.json", run, settings), "train")
    return run


def drawn(data: Datalist, patients: int, draw: int) -> list[Case]:
    """Return the cases of so many training patients, drawn by a seed; 0: of all."""
    names = sorted({case.patient for case in data.section("training")})
    chosen = set(np.random.default_rng(draw).permutation(names)[: patients or None].tolist())
    return [case for case in data.section("training") if case.patient in chosen]


@torch.no_grad()
def segmented(
    data: Datalist, bank: Path, cases: Sequence[Case], run: Path | None, ways: Sequence[Any]
) -> dict[str, Any]:
    """Return Dice by way, organ and patient of cases, segmented by a bank; without a run by its vote alone."""
    card, parser = load_card(data.card), ConfigParser()
    parser.read_config(str(find_bundle(BUNDLE) / "configs" / "inference.yaml"))
    parser.update({**segment_values(data.card, bank), "cases": list(cases)})
    images, inferer, retriever = map(parser.get_parsed_content, ("dataset", "inferer", "retriever"))
    references = VolumeDataset(cases, preprocessing(window=card.window), labels=True)
    network = VotingNetwork(card.num_classes, image_size=inferer.image_size)
    if run is not None:
        sam, repeated = load_answering(run)
        network = Ways(ways, num_classes=card.num_classes, image_size=inferer.image_size, sam=sam, repeated=repeated)
    retriever.attach(Bank.open(bank))
    names, tables = [VOTE, *map(told, ways)], {}
    for index, case in enumerate(cases):
        supports = VolumeSupports(retriever, case.patient, case.case)
        reference, annotated = references[index]["label"][0].round(), annotated_classes(case, card)
        labels = torch.zeros((len(names), *reference.shape), dtype=torch.uint8)
        for where, logits in inferer.slabs(images[index]["image"], network, supports):
            for way, part in enumerate(logits.chunk(len(names), dim=1)):
                labels[way, ..., where] = part.argmax(1).to(torch.uint8).movedim(0, -1)
        for organ in card.organs:
            truth = (reference == organ.value).numpy()
            if annotated[organ.value] and truth.any():
                for name, found in zip(names, labels, strict=True):
                    score = dice(truth, (found == organ.value).numpy())
                    tables.setdefault(name, {}).setdefault(organ.name, {}).setdefault(case.patient, []).append(score)
    return tables


def told(way: tuple[tuple[str, ...], float, float]) -> str:
    """Return a way in words."""
    kinds, part, least = way
    return f"vote + {', '.join(kinds)} (part {part:g}, overlap {least:g})"


def trial(
    data: Datalist,
    name: str,
    folder: Path,
    training: Sequence[Case],
    cases: Sequence[Case],
    run: Path | None,
    ways: Sequence[Any],
) -> dict[str, Any]:
    """Return Dice of cases by a bank of the training cases, see `segmented`; what is done is not done again."""
    if not (folder / "result.json").exists():
        write_datalist(folder / "bank.json", data.card, {"training": list(training)})
        bank, *_ = index_run(None, folder / "bank", data=folder / "bank.json", options=SETS[name]["bank"])
        write_json_atomic(folder / "result.json", segmented(data, bank, cases, run, ways))
    return read_json(folder / "result.json")


def first_patients(cases: Sequence[Case], count: int) -> list[Case]:
    """Return the cases of the first patients by name; 0: of all."""
    names = sorted({case.patient for case in cases})[: count or None]
    return [case for case in cases if case.patient in names]


def row_of(label: str, table: dict[str, Any], base: dict[str, Any], known: Sequence[str]) -> str:
    """Return a row: Dice of the organs that are new to the network, and of those it knows, each with its gain.

    Where no organ is known, there is no network: Dice of all.
    """
    cells, kinds = [], (lambda organ: organ not in known, lambda organ: organ in known)
    for chosen in kinds if known else kinds[:1]:
        ours, theirs = ({organ: rest for organ, rest in one.items() if chosen(organ)} for one in (table, base))
        mean = mean_interval(ours)
        low, high = mean["ci95"]
        cells.append(f"**{mean['mean']:.3f}** ({low:.3f} to {high:.3f})")
        if ours == theirs:
            cells += [""] if known else []
            continue
        gain = paired_difference(ours, theirs)
        less, more = gain["ci95"]
        cells.append(f"{gain['mean_difference']:+.3f} ({less:.3f} to {more:.3f}), {gain['wins']} of {gain['n']}")
    return f"| {label} | {' | '.join(cells)} |"


def study(args: argparse.Namespace, data: Datalist, name: str, output: Path) -> list[str]:
    """Return the rows of a set."""
    rows, run = [], None if args.vote_alone else answering_run(data, name, output)
    section, ways = ("validation", WAYS) if args.sweep else ("test", WAYS[:1])
    ways = [] if args.vote_alone else ways
    cases = first_patients(data.section(section), args.test_patients)
    count = len({case.patient for case in cases})
    for patients in (5,) if args.sweep else SETS[name]["patients"]:
        draws = args.draws if patients in (1, 2) else 1
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        for draw in range(draws):
            folder = output / f"{section}-{patients or 'all'}-{draw}{'-vote' * args.vote_alone}"
            for way, table in trial(data, name, folder, drawn(data, patients, draw), cases, run, ways).items():
                for organ, by_patient in table.items():
                    for patient, values in by_patient.items():
                        found.setdefault(way, {}).setdefault(organ, {}).setdefault(patient, []).extend(values)
        for way, table in found.items():
            label = f"{name}, {count} patients | {patients or 'all'}{f', {draws} draws' * (draws > 1)} | {way}"
            known = () if args.vote_alone else SETS[name]["known"]
            rows.append(row_of(label, table, found[VOTE], known))
            sys.stderr.write(rows[-1] + "\n")
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = two_set_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--test-patients", type=int, default=0, help="the first by name; 0: all")
    parser.add_argument("--draws", type=int, default=3, help="of the patients in banks of 1 and 2")
    parser.add_argument("--sweep", action="store_true", help="the choices of the sharpening, on validation patients")
    parser.add_argument("--vote-alone", action="store_true", help="no network is trained and prompted")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    dice_of = "Dice (95 % interval)"
    parts = [f"new organs: {dice_of}", "gain, better in", f"known organs: {dice_of}", "gain, better in"]
    parts = [f"all organs: {dice_of}"] if args.vote_alone else parts
    lines = [f"| set | patients in the bank | way | {' | '.join(parts)} |", "|---|---|---|" + "---|" * len(parts)]
    for name, source in (("openkbp_hn", args.head_neck), ("hippocampus", args.hippocampus)):
        if source is not None:
            output = args.output.absolute() / name
            data = load_datalist(prepare(name, source, output / "datalist.json", **SETS[name]["split"]))
            lines += study(args, data, name, output)
    record("training_free_sweep" if args.sweep else "training_free", lines)


if __name__ == "__main__":
    main()
