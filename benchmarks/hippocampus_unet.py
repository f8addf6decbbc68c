"""RAG-SAM against a MONAI U-Net on the Decathlon hippocampus set: the same minutes, slices, augmentation and loss.

    python benchmarks/hippocampus_unet.py --source HIPPOCAMPUS --output runs/hippocampus --minutes 25

Both train from scratch on all cores, one after the other, by the same bundle with another `network_def`: one-cycle
schedule, the number of steps found by timing the network's own steps first, validation on the same patients, the best
weights kept. The U-Net comes second and gets the minutes that RAG-SAM really took, where the machine was slower than
in the timing. Test: whole volumes of held-out patients, RAG-SAM with and without retrieval. The U-Net is MONAI's 2D
one (32, 64, 128, 256 channels, 2 residual units). Writes curves.png and result.json, and prints a Markdown table. Runs
that stand in the output folder already are not trained again, only measured.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from ragsam.api.index import index_run
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.data.preparation.prepare import prepare
from ragsam.evaluation.paired_comparison import compare_metrics
from ragsam.evaluation.score_cases import pairs_from_cases
from ragsam.files import atomic_write, write_json_atomic
from ragsam.inference.evaluation import report_evaluation
from ragsam.runs.run import run_config
from ragsam.runs.templates import make_run

CALIBRATION_STEPS = 100
STEPS_PER_EPOCH = 100
SLICES = {"image_size": 56, "batch_size": 32}  # 56 pixels hold all but the widest fortieth of the volumes at once
TEST_SHIFT = 3  # pixels, for both; found on the validation patients


class UNetBaseline(nn.Module):
    """MONAI's U-Net with the segmenter's face, so that the same bundle trains and runs it."""

    base_sha256 = None
    about: ClassVar[dict[str, Any]] = {"network": "UNet", "base_sha256": None, "fusion": None}

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = UNet(2, 3, num_classes + 1, (32, 64, 128, 256), (2, 2, 2), num_res_units=2)

    def forward(self, image: Tensor, supports: None = None) -> Tensor:
        return self.net(image)

    def trainable_state(self) -> dict[str, Tensor]:
        return self.state_dict()

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state)


UNET = {
    "network_def": {"_target_": "hippocampus_unet.UNetBaseline", "num_classes": "$@card_def.num_classes"},
    "retrieval": False,
}


def train(datalist: Path, folder: Path, minutes: float, overrides: dict[str, Any]) -> Path:
    """Time a few steps, then train for as many as fit the minutes; return the run, at once where it stands already."""
    if (folder / "run" / "models").exists():
        return folder / "run"
    options = {"epochs": 2, "steps_per_epoch": CALIBRATION_STEPS, **SLICES}
    trial = make_run("sam_lora", datalist, folder / "timing", options)
    run_config(trial, "train", **{"validate_every": 1, **overrides})
    first, second = (float(row["train_seconds"]) for row in read_log(trial))
    seconds_a_step = (second - first) / CALIBRATION_STEPS
    epochs = max(1, round(minutes * 60 / seconds_a_step / STEPS_PER_EPOCH))
    options = {"epochs": epochs, "steps_per_epoch": STEPS_PER_EPOCH, **SLICES}
    options["validate_every"] = max(1, epochs // 8)
    run = make_run("sam_lora", datalist, folder / "run", options)
    run_config(run, "train", **overrides)
    return run


def read_log(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's log."""
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test(
    run: Path, datalist: Path, name: str, output: Path, overrides: dict[str, Any], **report: Any
) -> dict[str, Any]:
    """Segment and measure the test section."""
    predictions = output / f"predictions-{name}"
    run_config(run, "inference", **{"output_dir": str(predictions), "inferer#shift": TEST_SHIFT, **overrides})
    data = load_datalist(datalist)
    pairs = pairs_from_cases(data.section("test"), predictions)
    return report_evaluation(pairs, load_card(data.card), predictions, output / f"evaluation-{name}", **report)


def plot_curves(logs: dict[str, list[dict[str, str]]], path: Path) -> None:
    """Draw validation Dice against minutes of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for name, rows in logs.items():
        minutes = [float(row["train_seconds"]) / 60 for row in rows]
        axes.plot(minutes, [float(row["score"]) for row in rows], marker="o", markersize=4, label=name)
    axes.set(xlabel="minutes of training", ylabel="mean Dice, validation patients", ylim=(0.7, 0.92))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def row(name: str, metrics: dict[str, Any], parameters: int, minutes: float, steps: int) -> str:
    """Return a line of the Markdown table."""
    organs, mean = metrics["summary"]["organs"], metrics["summary"]["mean"]["dice"]
    by_organ = " / ".join(f"{organ['dice']['mean']:.4f}" for organ in organs.values())
    low, high = mean["ci95"]
    return (
        f"| {name} | {parameters / 1e6:.2f} M | {minutes:.1f} | {steps} | {by_organ} "
        f"| **{mean['mean']:.4f}** ({low:.4f} to {high:.4f}) |"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with imagesTr, labelsTr and subjects.csv")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25, help="of training, for each network")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    output = args.output.absolute()
    datalist = prepare("hippocampus", args.source, output / "datalist.json")
    ours = train(datalist, output / "ragsam", args.minutes, {})
    taken = float(read_log(ours)[-1]["train_seconds"]) / 60
    unet = train(datalist, output / "unet", max(args.minutes, taken), UNET)
    bank, _, _ = index_run(ours)
    support_cases = load_datalist(datalist).section("training")
    without = test(ours, datalist, "ragsam-without-retrieval", output, {"retrieval": False})
    results = {
        "RAG-SAM": test(ours, datalist, "ragsam", output, {}, bank=bank, support_cases=support_cases, baseline=without),
        "RAG-SAM, retrieval off at test": without,
        "MONAI U-Net": test(unet, datalist, "unet", output, UNET),
    }
    logs = {"RAG-SAM": read_log(ours), "MONAI U-Net": read_log(unet)}
    plot_curves(logs, output / "curves.png")
    lines = ["| network | parameters | minutes | steps | Dice anterior / posterior | mean Dice (95 % interval) |"]
    lines.append("|---|---|---|---|---|---|")
    for name, metrics in results.items():
        run = unet if name == "MONAI U-Net" else ours
        log = logs["MONAI U-Net" if run == unet else "RAG-SAM"][-1]
        parameters = sum(tensor.numel() for tensor in torch.load(run / "models/model.pt", weights_only=True).values())
        lines.append(row(name, metrics, parameters, float(log["train_seconds"]) / 60, int(log["step"])))
    for name in ("MONAI U-Net", "RAG-SAM, retrieval off at test"):
        paired = compare_metrics(results["RAG-SAM"], results[name])["mean"]["dice"]
        low, high = paired["ci95"]
        lines.append(
            f"\nRAG-SAM minus {name}, paired by patient: {paired['mean_difference']:+.4f} ({low:+.4f} to {high:+.4f}), "
            f"better in {paired['wins']} of {paired['n']} patients."
        )
    about = (
        f"\n{results['RAG-SAM']['n_patients']} test patients, {results['RAG-SAM']['n_cases']} volumes; one seed; "
        f"{date.today()}; {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    )
    sys.stdout.write("\n".join([*lines, about]) + "\n")
    summaries = {name: metrics["summary"] for name, metrics in results.items()}
    write_json_atomic(output / "result.json", {"summary": summaries, "logs": logs, "table": lines, "about": about})


if __name__ == "__main__":
    main()
