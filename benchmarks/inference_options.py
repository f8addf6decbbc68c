"""What each option of inference is worth on a trained run: Dice paired by patient with the run as it stands.

    python benchmarks/inference_options.py RUN DATALIST --output OUT [--section validation] [--ensemble RUN2 RUN3]
        [--options precision=bfloat16 precision=int8]

Every option is switched on alone; `--ensemble` names runs trained on other slice axes. Prints a Markdown table: the
mean difference over organs with its 95 % interval (bootstrap over patients), and the processor's time for all volumes.
What stands in OUT already is not segmented again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ragsam.api.segment import segment_with_run
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.evaluation.paired_comparison import compare_metrics
from ragsam.evaluation.score_cases import evaluate_cases, pairs_from_cases
from ragsam.files import write_json_atomic

PLAIN = "as it stands"
OPTIONS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "test_shift=3": {"options": {"test_shift": 3}},
    "test_mirror=true": {"options": {"test_mirror": True}},
    "test_scales=[0.9, 1.1]": {"options": {"test_scales": [0.9, 1.1]}},
    "precision=bfloat16": {"options": {"precision": "bfloat16"}},
    "precision=int8": {"options": {"precision": "int8"}},
}


def measure(args: argparse.Namespace, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Segment and score with one option; return metrics and seconds, those of an earlier call where they stand."""
    folder = args.output / "".join(c if c.isalnum() else "_" for c in name)
    if (folder / "result.json").is_file():
        return json.loads((folder / "result.json").read_text())
    data, start = load_datalist(args.datalist), time.process_time()
    segment_with_run(args.run, [args.datalist], folder, section=args.section, **options)
    seconds = time.process_time() - start
    pairs = pairs_from_cases(data.section(args.section), folder)
    result = {"metrics": evaluate_cases(pairs, load_card(data.card)), "seconds": seconds}
    write_json_atomic(folder / "result.json", result)
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--section", default="validation")
    parser.add_argument("--ensemble", type=Path, nargs="+", default=[], help="runs, such as of the other slice axes")
    names = [name for name in OPTIONS if name != PLAIN]
    parser.add_argument("--options", nargs="*", default=names, choices=names, help="those to try (default: all)")
    args = parser.parse_args()
    options = {name: OPTIONS[name] for name in (PLAIN, *args.options)}
    for count in range(1, len(args.ensemble) + 1):
        options[f"ensemble of {count + 1}"] = {"ensemble": args.ensemble[:count]}
    if args.ensemble:
        best = {"ensemble": args.ensemble, "options": {"test_shift": 3}}
        options[f"ensemble of {len(args.ensemble) + 1}, test_shift=3"] = best
    results = {name: measure(args, name, chosen) for name, chosen in options.items()}
    plain = results[PLAIN]["metrics"]
    lines = ["| option | mean Dice | difference (95 % interval) | better / worse, patients | processor seconds |"]
    lines.append("|---|---|---|---|---|")
    for name, result in results.items():
        mean, paired = result["metrics"]["summary"]["mean"]["dice"]["mean"], "| - | - "
        if name != PLAIN:
            found = compare_metrics(result["metrics"], plain)["mean"]["dice"]
            low, high = found["ci95"]
            paired = (
                f"| {found['mean_difference']:+.4f} ({low:+.4f} to {high:+.4f}) | {found['wins']} / {found['losses']} "
            )
        lines.append(f"| {name} | {mean:.4f} {paired}| {result['seconds']:.0f} |")
    data = f"{plain['n_patients']} patients, {plain['n_cases']} volumes of {plain['card']}, {args.section}"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    lines.append(f"\n{data}; {date.today()}; {machine}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
