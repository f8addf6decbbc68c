"""What retrieval gains with few labelled patients, each network trained until its validation stops improving.

    python benchmarks/few_labels.py --hippocampus SOURCE --head-neck SOURCE --output runs/few_labels

For each number of labelled patients, set and seed one network trains by the package's own early stopping, the same rule
for all. The fusion `vote_product` learns nothing of the neighbours, so one training serves every test of it: retrieval
off, the bank of its own training patients, that bank grown to all labelled patients without further training, and the
own bank with its labels shuffled among slices. Validation, and so the choice of the weights, is without retrieval,
which favours the network without it; then the validation patients choose the weight of the vote, as in a training with
retrieval. Differences are paired by patient, a patient's score being the mean over seeds.

A self-trained network starts again with pseudo-labels of the patients whose labels it is not given, one round of
`ragsam train --unlabelled`: labelled by the first network and its bank, or by the first network alone.

The test patients are drawn from the training section of `ragsam prepare`: earlier comparisons were scored on its
validation and test sections, which here validate and are labelled. One process on one core. Whatever is finished stands
in the output folder and is not run again; a training that was stopped continues. Tables are written after every trial.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from few_labels_table import write_tables
from hippocampus_unet import read_log
from trials import start_trial, two_set_parser

from ragsam.api.index import index_run
from ragsam.api.pseudo_labels import PseudoLabels, write_pseudo_labels
from ragsam.api.segment import segment_with_run
from ragsam.api.train import train_run
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, Datalist, load_datalist, write_datalist
from ragsam.data.preparation.prepare import prepare
from ragsam.evaluation.score_cases import evaluate_cases, pairs_from_cases
from ragsam.files import write_json_atomic
from ragsam.inference.bank_building import attach_bank
from ragsam.io.documents import read_json
from ragsam.networks.checkpoints import load_metadata, save_weights
from ragsam.retrieval.bank import Bank
from ragsam.runs.bank_only import plain_slices
from ragsam.runs.run import RunFolder, part_of
from ragsam.runs.weights import WeightsLoader
from ragsam.training import csv_log
from ragsam.training.vote_weight import VoteWeight

#: Options of a training. The learning rate falls to 0 over `epochs`; it ends earlier where the patience runs out.
_RULE = {"steps_per_epoch": 50, "validate_every": 1, "patience": 8, "retrieval": False, "precision": "bfloat16"}
SETS: dict[str, dict[str, Any]] = {
    "openkbp_hn": {"image_size": 96, "spacing_mm": [6.0, 6.0], "batch_size": 12, "learning_rate": 5e-4, "epochs": 16},
    "hippocampus": {"image_size": 64, "batch_size": 32, "epochs": 14},
}
#: Patients for the test, drawn from those that earlier comparisons only trained on.
TEST_PATIENTS = {"openkbp_hn": 12, "hippocampus": 30}
TESTS = ("retrieval off", "own bank", "bank of all", "shuffled bank")
#: Who labels what a network trains on again; the first network has the labels alone.
TEACHERS = ("network", "network and bank")


def sections_of(data: Datalist, patients: int, seed: int) -> dict[str, list[Case]]:
    """Return the cases that train, those that only a grown bank has, that validate, and that are tested.

    Args:
        data: as `prepare` splits a set.
        patients: labelled ones, drawn by the seed; 0: all.
    """
    earlier = data.section("training")
    tested = set(_shuffled(earlier, 2026)[: TEST_PATIENTS[load_card(data.card).name]])
    pool = [case for case in earlier if case.patient not in tested] + list(data.section("test"))
    labelled = set(_shuffled(pool, seed)[: patients or None])
    return {
        "training": [case for case in pool if case.patient in labelled],
        "rest": [case for case in pool if case.patient not in labelled],
        "validation": list(data.section("validation")),
        "test": [case for case in earlier if case.patient in tested],
    }


def _shuffled(cases: Sequence[Case], seed: int) -> list[str]:
    """Return the patients of cases in an order drawn by a seed."""
    names = sorted({case.patient for case in cases})
    return np.random.default_rng(seed).permutation(names).tolist()


def run_training(trial: dict[str, Any], datalist: Path) -> dict[str, Any]:
    """Train a network on one core, or continue with it; return what it took and how validation went."""
    run = Path(trial["run"])
    data = load_datalist(datalist)
    sections = sections_of(data, trial["patients"], trial["seed"])
    split = run.with_suffix(".json")
    rest = sections.pop("rest")
    write_datalist(split, data.card, sections if trial["teacher"] else {**sections, "rest": rest})
    options = {**_RULE, **SETS[trial["set"]], "seed": trial["seed"]}
    found: dict[str, Any] = {}
    if trial["teacher"]:
        labels = pseudo_labels(trial, rest)
        found = {"pseudo_labelled": labels.volumes, "learnt_share": labels.share}
        options |= {"pseudo_labels": str(labels.datalist)} if labels.datalist else {}
    csv_log.time = SimpleNamespace(monotonic=time.process_time)  # the log then has minutes of this process
    train_run("sam_lora", split, run, options, resume=True)
    log = read_log(run)
    choose_vote_weight(run, sections["validation"])
    return {
        **found,
        "steps": int(log[-1]["step"]),
        "minutes": float(log[-1]["train_seconds"]) / 60,
        "validation": [[float(row["train_seconds"]) / 60, float(row["score"])] for row in log],
    }


def pseudo_labels(trial: dict[str, Any], cases: Sequence[Case]) -> PseudoLabels:
    """Have the network of the same labels and seed label the other patients, whose own labels are not read."""
    teacher = Path(trial["teacher_run"])
    unlabelled = [replace(case, label=None, annotated=None, label_map=None) for case in cases]
    folder = Path(f"{trial['run']}-labels")
    bank = trial["teacher"] == "network and bank"
    return write_pseudo_labels(teacher, unlabelled, folder, retrieval=bank, overwrite=True)


def choose_vote_weight(run: Path, validation: Sequence[Case]) -> None:
    """Give the vote the weight that serves the validation patients best, as a training with retrieval does."""
    folder = RunFolder(run, "train")
    bank, _, _ = index_run(run)
    parser = plain_slices(folder.parser("train"))
    get, part = parser.get_parsed_content, partial(part_of, parser)
    network, retriever, weights = part("network"), part("retriever"), Path(get("weights"))
    WeightsLoader(network, weights).load()
    attach_bank(retriever, network, bank, get("preparation"))
    network.fusion.vote_product.start(retriever.bank.patient_count)
    VoteWeight(network, retriever, lambda: part("train#dataset")(data=validation)).choose(None)
    save_weights(weights, network.trainable_state(), load_metadata(weights))


def run_test(trial: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Segment the test patients in one way; return the cases' scores."""
    run, test = Path(trial["run"]), trial["test"]
    data = load_datalist(run.with_suffix(".json"))
    bank = bank_of(test, run)
    start = time.process_time()
    predictions = folder / "predictions"
    segment_with_run(run, [data.path], predictions, bank=bank, retrieval=bank is not None)
    minutes = (time.process_time() - start) / 60
    metrics = evaluate_cases(pairs_from_cases(data.section("test"), predictions), load_card(data.card))
    shutil.rmtree(predictions)
    return {"cases": metrics["cases"], "minutes": minutes}


def bank_of(test: str, run: Path) -> Path | None:
    """Make the bank of a test and return its folder; None if retrieval is off."""
    if test == "retrieval off":
        return None
    own, _, _ = index_run(run)
    if test == "own bank":
        return own
    folder = run.parent / f"{run.name}-{test.replace(' ', '-')}"
    if test == "bank of all":
        shutil.copytree(own, folder, dirs_exist_ok=True)
        if load_datalist(run.with_suffix(".json")).sections["rest"]:
            index_run(run, folder, add=run.with_suffix(".json"), section="rest")
        return folder
    bank = Bank.open(own)
    order = np.random.default_rng(0).permutation(len(bank))
    annotated = None if bank.annotated is None else bank.annotated[order]
    replace(bank, labels=np.asarray(bank.labels[order]), annotated=annotated, present=None).save(folder)
    return folder


def plan(args: argparse.Namespace, datalists: dict[str, Path], output: Path) -> Iterator[dict[str, Any]]:
    """Yield the trials in the order in which they run: a network's training, then its tests."""
    for seed, teacher, patients, name in product(args.seeds, ("", *args.teachers), args.patients, datalists):
        if teacher and not patients:
            continue  # nobody is left to label
        first = output / f"{name}-{patients}-{seed}"
        run = first.with_name(f"{first.name}-by-{teacher.replace(' ', '-')}") if teacher else first
        trial = {"set": name, "patients": patients, "seed": seed, "teacher": teacher, "run": str(run)}
        yield {**trial, "teacher_run": str(first), "folder": f"{run.name}-training"}
        for test in args.tests:
            if not teacher or test in ("retrieval off", "own bank"):
                yield {**trial, "test": test, "folder": f"{run.name}-{test.replace(' ', '-')}-test"}


def read_arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = two_set_parser(__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--patients", type=int, nargs="+", default=[5, 2, 1, 10, 0], help="labelled; 0: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tests", nargs="+", default=list(TESTS), choices=TESTS)
    parser.add_argument("--teachers", nargs="*", default=list(TEACHERS), choices=TEACHERS)
    parser.add_argument("--trial", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--datalist", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare_sets(args: argparse.Namespace, output: Path) -> dict[str, Path]:
    """Write the datalists of the sets that were given, split as in earlier comparisons; return their paths."""
    datalists = {}
    if args.head_neck:
        path = output / "openkbp_hn.json"
        datalists["openkbp_hn"] = prepare("openkbp_hn", args.head_neck, path, validation=4, test=8)
    if args.hippocampus:
        datalists["hippocampus"] = prepare("hippocampus", args.hippocampus, output / "hippocampus.json")
    return datalists


def main() -> None:
    """Run the study, or one trial of it in a process of its own."""
    args = read_arguments()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    if args.trial:
        trial = read_json(args.trial / "trial.json")
        result = run_test(trial, args.trial) if "test" in trial else run_training(trial, args.datalist)
        write_json_atomic(args.trial / "result.json", result)
        return
    output = args.output.absolute()
    datalists = prepare_sets(args, output)
    done = []
    for trial in plan(args, datalists, output):
        done.append(start_trial(__file__, trial, datalists[trial["set"]], output / trial["folder"]))
        sys.stderr.write(f"{trial['folder']}: {done[-1]['minutes']:.1f} minutes\n")
        write_tables(done, output)


if __name__ == "__main__":
    main()
