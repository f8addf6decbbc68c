"""The ways to tune SAM side by side: the same data, seeds and minutes; and what the detail branch and context give.

    python benchmarks/tuning_ablation.py --hippocampus SOURCE --head-neck SOURCE --output runs/ablation

1. A base: a plain SAM (`vit_tiny`), trained on the head-and-neck CT. From it, on the hippocampus MR: full tuning, LoRA,
   adapters, frequency prompts, LoRA and adapters, each with and without the detail branch; a MONAI U-Net beside them.
2. From scratch, on both sets: the default network, without the detail branch, without neighbouring slices, with the
   depth adapter.

Minutes are minutes of one core, by the process's own clock, since a machine may have other work: each network's steps
are timed first, then as many are trained as fit. No retrieval: this compares networks. Test: whole volumes of held-out
patients; a patient's score is the mean over seeds, the interval is over patients. Finished trials stand in the output
folder and are not run again. Writes result.json and prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hippocampus_unet import UNET, read_log
from trials import start_trial, two_set_parser

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.data.preparation.prepare import prepare
from ragsam.evaluation.score_cases import evaluate_cases, pairs_from_cases
from ragsam.files import atomic_write, write_json_atomic
from ragsam.io.documents import read_json
from ragsam.metrics.statistics import mean_interval
from ragsam.runs.network_config import build_empty, network_options
from ragsam.runs.run import run_config
from ragsam.runs.templates import make_run
from ragsam.training import csv_log as history

STEPS_PER_EPOCH = 10
SETS = {"hippocampus": {"image_size": 56}, "openkbp_hn": {"image_size": 64}}
COMMON = {"batch_size": 16, "retrieval": False, "fusion": None, "lora": None}
BASE = {**COMMON, **SETS["openkbp_hn"], "detail": False}
TUNING: dict[str, dict[str, Any]] = {
    "full tuning": {"full_tuning": True},
    "LoRA": {"lora": {"rank": 4}},
    "adapters": {"adapter": {"space": True, "mlp": True}},
    "frequency prompts": {"frequency": {"rate": 0.25}},
    "LoRA + adapters": {"lora": {"rank": 4}, "adapter": {"space": True, "mlp": True}},
}
CONTEXT: dict[str, dict[str, Any]] = {
    "default: detail branch, both neighbours as channels": {},
    "no detail branch": {"detail": False},
    "no neighbours": {"context_slices": 0},
    "depth adapter over the three slices": {"adapter": {"space": False, "mlp": False, "depth": True}},
}


def trials(minutes: dict[str, float], seeds: list[int], context_seeds: list[int], base: Path) -> list[dict[str, Any]]:
    """Return every trial: table, name, set, options, seed, minutes (which `minutes` gives by set)."""
    tuning, context = [], []
    for detail in (True, False):
        for name, options in TUNING.items():
            title = f"{name}, {'with' if detail else 'without'} the detail branch"
            options = {**COMMON, **SETS["hippocampus"], "base": str(base), "detail": detail, **options}
            tuning.append({"table": "tuning", "name": title, "set": "hippocampus", "options": options})
    unet = {**COMMON, **SETS["hippocampus"]}
    tuning.append({"table": "tuning", "name": "MONAI U-Net, from scratch", "set": "hippocampus", "options": unet})
    for data, sizes in SETS.items():
        for name, options in CONTEXT.items():
            context.append({"table": "context", "name": name, "set": data, "options": {**COMMON, **sizes, **options}})
    planned = [(trial, seed) for seed in seeds for trial in tuning]
    planned += [(trial, seed) for seed in context_seeds for trial in context]
    return [{**trial, "seed": seed, "minutes": minutes[trial["set"]]} for trial, seed in planned]


def run_trial(trial: dict[str, Any], datalist: Path, folder: Path) -> dict[str, Any]:
    """Time, train and test one network in this process, on one core."""
    torch.set_num_threads(1)
    history.time = SimpleNamespace(monotonic=time.process_time)  # the log gives minutes of this process
    network = UNET if "U-Net" in trial["name"] else {}
    overrides = dict(network)
    options = {**trial["options"], "seed": trial["seed"], "steps_per_epoch": STEPS_PER_EPOCH}
    timing = make_run("sam_lora", datalist, folder / "timing", {**options, "epochs": 2, "validate_every": 1})
    # Nothing is chosen by validation: one volume is enough to have the last weights kept.
    overrides["validate#dataset#data"] = "$@datalist_def.section('validation')[:1]"
    run_config(timing, "train", **overrides)
    start, end = (float(row["train_seconds"]) for row in read_log(timing))
    epochs = max(1, round(trial["minutes"] * 60 / (end - start)))
    run = make_run("sam_lora", datalist, folder / "run", {**options, "epochs": epochs, "validate_every": epochs})
    run_config(run, "train", **overrides)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    run_config(run, "inference", **{"output_dir": str(folder / "predictions"), "retrieval": False, **network})
    data = load_datalist(datalist)
    metrics = evaluate_cases(pairs_from_cases(data.section("test"), folder / "predictions"), load_card(data.card))
    log = read_log(run)[-1]
    return {
        "steps": int(log["step"]),
        "minutes": float(log["train_seconds"]) / 60,
        "peak_mib": peak_mib,
        "cases": metrics["cases"],
        **_parameters(run, load_card(data.card).num_classes, network),
    }


def _parameters(run: Path, num_classes: int, other_network: dict[str, Any]) -> dict[str, int]:
    """Count what trains, and all."""
    if other_network:
        state = torch.load(run / "models" / "model.pt", weights_only=True)
        total = sum(tensor.numel() for tensor in state.values())
        return {"trainable": total, "parameters": total}
    network = build_empty(network_options((run / "configs" / "train.yaml").read_text(), num_classes))
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return {"trainable": sum(n for n, trains in counts if trains), "parameters": sum(n for n, _ in counts)}


def train_base(datalist: Path, folder: Path, minutes: float) -> Path:
    """Train a plain SAM and write its weights as SAM names them."""
    path = folder / "base.pth"
    if path.exists():
        return path
    result = run_trial({"name": "base", "options": BASE, "seed": 0, "minutes": minutes}, datalist, folder)
    state = torch.load(folder / "run" / "models" / "model.pt", weights_only=True)
    with atomic_write(path) as temporary:
        torch.save({k.removeprefix("sam."): v for k, v in state.items() if k.startswith("sam.")}, temporary)
    write_json_atomic(
        folder / "result.json", {"dice": dice(result["cases"]), **{k: result[k] for k in ("steps", "minutes")}}
    )
    return path


def dice(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean Dice over organs with its interval over patients; a patient's volumes and seeds are averaged."""
    table: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        for organ, scores in case["organs"].items():
            if scores["dice"] is not None:
                table.setdefault(organ, {}).setdefault(case["patient"], []).append(scores["dice"])
    return mean_interval(table)


def table_rows(done: list[dict[str, Any]], table: str, data: str) -> list[str]:
    """Return a Markdown table of the trials of one set."""
    lines = ["| network | trains | of | minutes | steps | peak MiB | mean Dice (95 % interval) | by seed |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    names = dict.fromkeys(t["name"] for t in done if t["table"] == table and t["set"] == data)
    for name in names:
        mine = [trial for trial in done if (trial["table"], trial["set"], trial["name"]) == (table, data, name)]
        score = dice([case for trial in mine for case in trial["cases"]])
        low, high = score["ci95"]
        seeds = ", ".join(f"{dice(trial['cases'])['mean']:.3f}" for trial in mine)
        minutes, peak, steps = (sum(t[key] for t in mine) / len(mine) for key in ("minutes", "peak_mib", "steps"))
        counts = " | ".join(f"{mine[0][key] / 1e6:.2f} M" for key in ("trainable", "parameters"))
        lines.append(
            f"| {name} | {counts} | {minutes:.2f} | {steps:.0f} | {peak:.0f} "
            f"| **{score['mean']:.3f}** ({low:.3f} to {high:.3f}) | {seeds} |"
        )
    return lines


def main() -> None:
    """Run the benchmark."""
    parser = two_set_parser(__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--minutes", type=float, default=0.75, help="of training on one core, for each network")
    parser.add_argument(
        "--head-neck-minutes", type=float, default=3, help="the same for the second set, which is harder"
    )
    parser.add_argument("--base-minutes", type=float, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--context-seeds", type=int, nargs="+", default=[0], help="of the second part")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trials at once, each on one core")
    parser.add_argument("--trial", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--datalist", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if args.trial:
        write_json_atomic(
            args.trial / "result.json", run_trial(read_json(args.trial / "trial.json"), args.datalist, args.trial)
        )
        return
    output = args.output.absolute()
    head_neck = prepare("openkbp_hn", args.head_neck, output / "openkbp_hn.json", validation=4, test=8)
    datalists = {
        "hippocampus": prepare("hippocampus", args.hippocampus, output / "hippocampus.json"),
        "openkbp_hn": head_neck,
    }
    base = train_base(head_neck, output / "base", args.base_minutes)
    minutes = {"hippocampus": args.minutes, "openkbp_hn": args.head_neck_minutes}
    todo = trials(minutes, args.seeds, args.context_seeds, base)

    def start(number: int) -> dict[str, Any]:
        trial = todo[number]
        done = start_trial(__file__, trial, datalists[trial["set"]], output / f"trial-{number:03d}")
        sys.stderr.write(f"{trial['set']}, {trial['name']}, seed {trial['seed']}: {dice(done['cases'])['mean']:.4f}\n")
        return done

    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(start, range(len(todo))))
    lines = []
    for table, data in (("tuning", "hippocampus"), ("context", "hippocampus"), ("context", "openkbp_hn")):
        patients = len({case["patient"] for t in done if t["set"] == data for case in t["cases"]})
        seeds = args.seeds if table == "tuning" else args.context_seeds
        lines += [f"\n{table}, {data}: {patients} test patients, seeds {seeds}\n", *table_rows(done, table, data)]
    where = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    lines.append(f"\n{date.today()}; minutes of one core for each network: {minutes}; {where}")
    sys.stdout.write("\n".join(lines) + "\n")
    write_json_atomic(output / "result.json", {"table": lines, "trials": json.loads(json.dumps(done, default=str))})


if __name__ == "__main__":
    main()
