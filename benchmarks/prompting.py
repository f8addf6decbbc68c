"""What prompts are worth on the Decathlon hippocampus set, with a network trained from scratch to answer them.

    python benchmarks/prompting.py --source HIPPOCAMPUS --output runs/prompting

Trains a `prompts: trained` network (once: a run that stands in the output folder already is only measured), then
measures whole volumes. Every prompt but those of the first row is an ORACLE's: made from the reference that the result
is then compared with, as no user could. Such rows tell how well the network follows prompts, not how good it is.

`--sweep` prints instead what the stated choices of propagation are worth; made on the validation patients.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ragsam.data.datalist import Case, load_datalist
from ragsam.data.preparation.prepare import prepare
from ragsam.data.volumes import VolumeDataset
from ragsam.files import write_json_atomic
from ragsam.metrics.overlap import dice
from ragsam.metrics.statistics import mean_interval
from ragsam.prompting.prompted_run import load_prompted
from ragsam.prompting.prompted_volume import PromptedVolume, SliceMask, mask_box
from ragsam.prompting.propagation import Following, propagate
from ragsam.prompting.refinement import refine
from ragsam.runs.run import RunFolder, run_config
from ragsam.runs.templates import make_run
from ragsam.transforms import preprocessing
from ragsam.transforms.voxel_prompts import SliceGrid, SlicePoint, SlicePrompts

OPTIONS = {"image_size": 56, "batch_size": 16, "prompts": "trained", "retrieval": False, "fusion": None}
EPOCHS = 6
CORRECTIONS = (1, 3)


@dataclass(frozen=True)
class Study:
    """A case, its reference, and what the network gives without prompts; all on the working volume.

    Attributes:
        reference, labels: [H, W, D], class of each voxel.
        odds, otherwise: see `AutomaticResult`.
        answering: the volume, which answers prompts.
    """

    case: Case
    reference: Tensor
    labels: Tensor
    odds: Mapping[int, Tensor]
    otherwise: Mapping[int, Tensor]
    answering: PromptedVolume
    organs: Mapping[str, int]


def studies(run: Path, cases: list[Case]) -> Iterator[Study]:
    """Yield every case, segmented automatically."""
    prompted = load_prompted(RunFolder(run), retrieval=False)
    dataset = VolumeDataset(cases, preprocessing(window=prompted.card.window), labels=True)
    organs = prompted.card.labels
    for index, case in enumerate(cases):
        item = dataset[index]
        volume = item["image"]
        made = prompted.automatic(case, volume, list(organs.values()))
        grid, reference = SliceGrid.of(volume), item["label"].as_tensor()[0].round().long()
        otherwise = {organ: grid.slices(labels).long() for organ, labels in made.otherwise.items()}
        answering = prompted.prompted(volume)
        yield Study(case, reference, grid.slices(made.labels).long(), made.odds, otherwise, answering, organs)


def centre(mask: Tensor) -> tuple[int, int]:
    """Return row and column of the pixel of a mask [H, W] that lies deepest in it."""
    depth = ndimage.distance_transform_edt(np.pad(mask.numpy(), 1))[1:-1, 1:-1]
    return tuple(int(index) for index in np.unravel_index(depth.argmax(), depth.shape))


def correcting_click(reference: Tensor, found: Tensor) -> SlicePoint | None:
    """Return the oracle's click in the middle of the largest connected error of a slice; None if there is none."""
    worst, size = None, 0
    for wrong, inside in ((reference & ~found, True), (found & ~reference, False)):
        pieces, count = ndimage.label(wrong.numpy())
        for piece in range(1, count + 1):
            if (pixels := int((pieces == piece).sum())) > size:
                worst, size = (torch.from_numpy(pieces == piece), inside), pixels
    return None if worst is None else SlicePoint(*centre(worst[0]), inside=worst[1])


def clicked_everywhere(study: Study) -> Tensor:
    """One oracle click in the middle of every organ in every slice that it is in; the surer organ has a pixel."""
    logits = torch.full((len(study.organs) + 1, *study.reference.shape), -1e6)
    logits[0] = 0
    for organ in study.organs.values():
        for number in slices_of(study.reference == organ):
            click = SlicePoint(*centre(study.reference[..., number] == organ))
            logits[organ, ..., number] = study.answering.answer(number, SlicePrompts((click,))).logits
    return logits.argmax(0)


def box_followed(study: Study, following: Following | None = None) -> Tensor:
    """The oracle's box in the middle slice of every organ, propagated; the surer organ has a voxel."""
    logits = torch.full((len(study.organs) + 1, *study.reference.shape), -1e6)
    logits[0] = 0
    for organ in study.organs.values():
        numbers = slices_of(study.reference == organ)
        if not numbers:
            continue
        middle = numbers[len(numbers) // 2]
        box = mask_box(study.reference[..., middle] == organ)
        found = {middle: study.answering.answer(middle, SlicePrompts(box=box))}
        for number, one in propagate(study.answering.answer, found, study.answering.depth, following).items():
            logits[organ, ..., number] = one.logits
    return logits.argmax(0)


def corrected_everywhere(study: Study, clicks: int) -> Tensor:
    """The automatic result, so many oracle clicks at the errors of every organ in every slice."""
    labels = study.labels.clone()
    for organ in study.organs.values():
        for number in slices_of((study.reference == organ) != (study.labels == organ)):
            found = correct_slice(study, organ, number, clicks)
            put(labels, study, organ, {number: found})
    return labels


def corrected_once(study: Study, *, follow: bool) -> Tensor:
    """The automatic result, one oracle click an organ, in the slice where it errs most; propagated or not."""
    labels = study.labels.clone()
    for organ in study.organs.values():
        errors = ((study.reference == organ) != (study.labels == organ)).flatten(0, 1).sum(0)
        if not int(errors.max()):
            continue
        number = int(errors.argmax())
        found = {number: correct_slice(study, organ, number, 1)}
        if follow:
            found = propagate(study.answering.answer, found, study.answering.depth)
        put(labels, study, organ, found)
    return labels


def correct_slice(study: Study, organ: int, number: int, clicks: int) -> SliceMask:
    """Refine an organ in a slice by oracle clicks, each at the largest error that the ones before it left."""
    reference = study.reference[..., number] == organ
    odds = study.odds[organ]
    found, points = SliceMask(torch.where(study.labels[..., number] == organ, 1.0, -1.0), 1.0), ()
    for _ in range(clicks):
        click = correcting_click(reference, found.mask)
        if click is None:
            break
        points = (*points, click)
        found = refine(study.answering.answer, odds, {number: SlicePrompts(points)})[number]
    return found


def put(labels: Tensor, study: Study, organ: int, found: Mapping[int, SliceMask]) -> None:
    """Put an organ instead of what it was in some slices of labels [H, W, D]."""
    other = study.otherwise[organ]
    for number, one in found.items():
        plane = labels[..., number]
        lost = (plane == organ) & ~one.mask
        plane[lost] = other[..., number][lost]
        plane[one.mask] = organ


def slices_of(mask: Tensor) -> list[int]:
    """Return the slices in which a mask [H, W, D] has a voxel."""
    return torch.nonzero(mask.flatten(0, 1).any(0)).flatten().tolist()


METHODS: dict[str, Callable[[Study], Tensor]] = {
    "automatic, no prompt": lambda study: study.labels,
    "oracle: a centre click for every organ and slice": clicked_everywhere,
    "oracle: a box in each organ's middle slice, propagated": box_followed,
    **{
        f"automatic + {clicks} oracle click(s) for every organ and slice": (
            lambda study, clicks=clicks: corrected_everywhere(study, clicks)
        )
        for clicks in CORRECTIONS
    },
    "automatic + 1 oracle click for every organ, in its worst slice": lambda study: corrected_once(study, follow=False),
    "the same, propagated": lambda study: corrected_once(study, follow=True),
}
SWEEP = {
    f"margin {margin}, quality {quality}, overlap {overlap}": Following(margin, quality, overlap)
    for margin, quality, overlap in [
        *itertools.product((0.0, 1.0, 2.0), (0.5,), (0.25, 0.5, 0.75)),
        (None, 0.5, 0.5),
        *itertools.product((1.0,), (0.0, 0.4, 0.6, 0.7), (0.5,)),
    ]
}


def measure(run: Path, cases: list[Case], methods: Mapping[str, Callable[[Study], Tensor]]) -> dict[str, dict]:
    """Return, by method, Dice by organ and patient."""
    tables: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in methods}
    for study in studies(run, cases):
        for name, method in methods.items():
            labels = method(study)
            for organ, value in study.organs.items():
                score = dice((study.reference == value).numpy(), (labels == value).numpy())
                if score is not None:
                    tables[name].setdefault(organ, {}).setdefault(study.case.patient, []).append(score)
    return tables


def lines_of(tables: Mapping[str, dict], organs: list[str]) -> list[str]:
    """Return a Markdown table."""
    lines = [f"| prompts | {' | '.join(organs)} | mean Dice (95 % interval) |", "|---" * (len(organs) + 2) + "|"]
    for name, table in tables.items():
        mean = mean_interval(table)
        by_organ = [f"{mean_interval({organ: table[organ]})['mean']:.3f}" for organ in organs]
        low, high = mean["ci95"]
        lines.append(f"| {name} | {' | '.join(by_organ)} | {mean['mean']:.3f} ({low:.3f} to {high:.3f}) |")
    return lines


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with imagesTr, labelsTr and subjects.csv")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150, help="of training, for each of 6 epochs")
    parser.add_argument("--section", default="validation")
    parser.add_argument("--sweep", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    output = args.output.absolute()
    run, datalist = output / "run", prepare("hippocampus", args.source, output / "datalist.json")
    if not (run / "models").exists():
        options = {**OPTIONS, "epochs": EPOCHS, "steps_per_epoch": args.steps, "validate_every": EPOCHS // 2}
        run_config(make_run("sam_lora", datalist, run, options), "train")
    cases = list(load_datalist(datalist).section(args.section))
    sweep = {name: lambda study, way=way: box_followed(study, way) for name, way in SWEEP.items()}
    tables = measure(run, cases, sweep if args.sweep else METHODS)
    organs = list(next(iter(tables.values())))
    with (run / "log.csv").open() as file:
        trained = list(csv.DictReader(file))[-1]
    minutes, patients = float(trained["train_seconds"]) / 60, {case.patient for case in cases}
    about = (
        f"\n{len(patients)} {args.section} patients, {len(cases)} volumes; {trained['step']} steps of "
        f"{OPTIONS['batch_size']}, {minutes:.1f} minutes; one seed; {date.today()}; "
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    )
    lines = [*lines_of(tables, organs), about]
    sys.stdout.write("\n".join(lines) + "\n")
    write_json_atomic(
        output / f"{'sweep' if args.sweep else 'result'}-{args.section}.json", {"dice": tables, "table": lines}
    )


if __name__ == "__main__":
    main()
