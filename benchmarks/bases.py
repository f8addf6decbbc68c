"""Pretrained bases beside a network from scratch, at few patients: Dice, minutes of one core, memory.

    python benchmarks/bases.py --head-neck SOURCE --hippocampus SOURCE --output runs/bases

Of each set the test and validation patients are fixed; of the others each seed draws as many as are asked for. Every
arm trains on the same patients with the same slices, augmentation, loss and number of steps, one cycle of the learning
rate, the best weights by validation kept; `scratch, longer` has five times the steps, which is what its minutes buy.
Nothing is chosen on the test patients. No retrieval. Minutes are the process's own time on one thread, training and
validation; memory is the process's peak. Finished trials stand in the output folder and are not run again; the table
is of those that are done.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import resource
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from trials import start_trial, two_set_parser
from tuning_ablation import dice

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.data.preparation.prepare import prepare
from ragsam.evaluation.score_cases import evaluate_cases, pairs_from_cases
from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json
from ragsam.report.training import read_log
from ragsam.runs.network_config import build_empty, network_options
from ragsam.runs.run import run_config
from ragsam.runs.templates import make_run

STEPS_PER_EPOCH = 50
COMMON = {"batch_size": 8, "retrieval": False, "fusion": None, "lora": None, "steps_per_epoch": STEPS_PER_EPOCH}
SETS: dict[str, dict[str, Any]] = {
    "openkbp_hn": {"image_size": 64, "spacing_mm": [6.0, 6.0]},
    "hippocampus": {"image_size": 56},
}
#: Validation and test patients of each set.
HELD_OUT = {"openkbp_hn": (2, 10), "hippocampus": (8, 20)}
BASE = {"base": "litemedsam"}
ARMS: dict[str, dict[str, Any]] = {
    "scratch": {},
    "scratch, longer": {},
    "LoRA": {**BASE, "lora": {"rank": 8, "targets": ["q", "v", "proj", "mlp"]}},
    "full tuning": {**BASE, "full_tuning": True, "learning_rate": 3e-4},
    "frozen": BASE,
    "adapters": {**BASE, "adapter": {"space": True, "mlp": True}},
}
LONGER = 5


def trials(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the trials in the order in which they run: set, patients, seed, arm, epochs, options."""
    planned = []
    for count in args.patients:
        for data in args.sets:
            for seed in args.seeds:
                for arm in args.arms:
                    epochs = max(2, args.steps // STEPS_PER_EPOCH) * (LONGER if "longer" in arm else 1)
                    options = {**COMMON, **SETS[data], **ARMS[arm], "seed": seed, "epochs": epochs}
                    options["validate_every"] = max(1, epochs // 4)
                    trial = {"set": data, "patients": count, "seed": seed, "arm": arm, "options": options}
                    planned.append(trial)
    return planned


def drawn_datalist(whole: Path, count: int, seed: int) -> Path:
    """Write the datalist whose training cases are those of `count` patients that a seed draws; 0 takes all.

    Between them the patients have every organ annotated: the first run of patients in the seed's order that does.
    """
    content = read_json(whole)
    organs = set(load_card(content["card"]).labels)
    patients = sorted({case["patient"] for case in content["training"]})
    random.Random(seed).shuffle(patients)
    for start in range(len(patients) if count else 0):
        kept = patients[start : start + count]
        drawn = [case for case in content["training"] if case["patient"] in kept]
        if len(kept) == count and organs <= {name for case in drawn for name in case.get("annotated", organs)}:
            content["training"] = drawn
            break
    path = whole.with_name(f"{whole.stem}-{count}-{seed}.json")
    write_json_atomic(path, content)
    return path


def run_trial(trial: dict[str, Any], datalist: Path, folder: Path) -> dict[str, Any]:
    """Train and test one arm in this process, on one core."""
    torch.set_num_threads(1)
    begin = time.process_time()
    run = make_run("sam_lora", datalist, folder / "run", trial["options"])
    run_config(run, "train")
    minutes = (time.process_time() - begin) / 60
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin = time.process_time()
    run_config(run, "inference", output_dir=str(folder / "predictions"))
    data = load_datalist(datalist)
    card = load_card(data.card)
    test = data.section("test")
    metrics = evaluate_cases(pairs_from_cases(test, folder / "predictions"), card)
    network = build_empty(network_options((run / "configs" / "train.yaml").read_text(), card.num_classes))
    return {
        "minutes": minutes,
        "test_seconds_per_case": (time.process_time() - begin) / len(test),
        "peak_mib": peak_mib,
        "trained": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "validation": [float(row["score"]) for row in read_log(run / "log.csv")],
        "cases": metrics["cases"],
    }


def table(done: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table of the finished trials, seeds together; Dice is the mean over organs."""
    lines = ["| set | patients | arm | seeds | Dice (95 % interval over patients) | minutes | peak MiB | trained | "]
    lines = [f"{lines[0]}s a test case | validation along the way (first seed) |", f"|{'---|' * 10}"]
    for key in dict.fromkeys((one["set"], one["patients"], one["arm"]) for one in done):
        mine = [one for one in done if (one["set"], one["patients"], one["arm"]) == key]
        score = dice([case for one in mine for case in one["cases"]])
        low, high = score["ci95"]
        names = ("minutes", "peak_mib", "trained", "test_seconds_per_case")
        minutes, peak, trained, seconds = (sum(one[name] for one in mine) / len(mine) for name in names)
        along = ", ".join(f"{value:.3f}" for value in mine[0]["validation"])
        lines.append(
            f"| {key[0]} | {key[1] or 'all'} | {key[2]} | {len(mine)} | {score['mean']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {minutes:.1f} | {peak:.0f} | {trained / 1e6:.2f} M | {seconds:.1f} | {along} |"
        )
    return lines


def main() -> None:
    """Run the benchmark, or print the table of what is done."""
    parser = two_set_parser(__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--patients", type=int, nargs="+", default=[1, 2, 5, 0], help="0: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--trial", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--datalist", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if args.trial:
        trial = read_json(args.trial / "trial.json")
        write_json_atomic(args.trial / "result.json", run_trial(trial, args.datalist, args.trial))
        return
    output = args.output.absolute()
    sources = {"openkbp_hn": args.head_neck, "hippocampus": args.hippocampus}
    done = []
    for trial in trials(args):
        data = trial["set"]
        validation, test = HELD_OUT[data]
        whole = output / f"{data}.json"
        if not whole.exists():
            prepare(data, sources[data], whole, validation=validation, test=test)
        datalist = drawn_datalist(whole, trial["patients"], trial["seed"])
        name = f"{data}-{trial['patients']}-{trial['seed']}-{trial['arm'].replace(', ', '-').replace(' ', '-')}"
        done.append(start_trial(__file__, trial, datalist, output / f"{name}-{args.steps}"))
        sys.stderr.write(f"{name}: {dice(done[-1]['cases'])['mean']:.4f}\n")
        write_json_atomic(output / "result.json", {"trials": done})
    where = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    sys.stdout.write("\n".join([*table(done), "", f"{date.today()}; {args.steps} steps of 8 slices; {where}"]) + "\n")


if __name__ == "__main__":
    main()
