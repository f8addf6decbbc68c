"""What resampling within slices leaves of thin organs: nearest neighbour against our rule.

    python benchmarks/label_resampling.py [--factors 1.5 2 3] [--labels FOLDER --card CARD] [--organs NAME ...]

A label map is brought to a coarser spacing by either, then back to its own as a network's output would be (linear,
class by class, the largest wins). Dice is with the map itself; volume is that on the coarse grid; a slice is lost
where it shows an organ and the coarse one does not. Without a folder, eight phantoms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from record import record
from torch import Tensor

from ragsam.data.cards.load import load_card
from ragsam.data.phantom.write import make_phantom
from ragsam.transforms.label_grid import LabelToGridd

PHANTOMS = 8


def phantoms() -> Iterable[MetaTensor]:
    """Make label maps [1, X, Y, Z]."""
    for seed in range(PHANTOMS):
        _, label, affine = make_phantom(seed)
        yield MetaTensor(torch.from_numpy(label)[None].float(), affine=affine)


def files(folder: Path) -> Iterable[MetaTensor]:
    """Read label maps [1, X, Y, Z], turned to RAS."""
    for path in sorted(folder.glob("*.nii*")):
        image = nib.load(path)
        label = torch.from_numpy(np.rint(np.asanyarray(image.dataobj)).astype(np.float32))
        yield Orientation("RAS", labels=None)(MetaTensor(label[None], affine=torch.from_numpy(image.affine)))


def coarse(label: MetaTensor, factor: float) -> tuple[MetaTensor, MetaTensor]:
    """Return the label [1, h, w, D] at a coarser spacing: by nearest neighbour, and by our rule."""
    x, y, _ = label.affine[:3, :3].norm(dim=0).tolist()
    spacing = Spacing(pixdim=(x * factor, y * factor, -1.0), mode="nearest")
    nearest = spacing(label.clone())
    return nearest, LabelToGridd()({"image": nearest, "label": label})["label"]


def back(moved: MetaTensor, like: MetaTensor, classes: int) -> Tensor:
    """Bring a coarse label back to its own grid as logits come back."""
    matrix = torch.linalg.solve(moved.affine.double(), like.affine.double())
    axes = []
    for axis in (0, 1):
        place = matrix[axis, axis] * torch.arange(like.shape[1 + axis]).double() + matrix[axis, 3]
        apart = (place.clamp(0, moved.shape[1 + axis] - 1)[:, None] - torch.arange(moved.shape[1 + axis])).abs()
        axes.append((1 - apart).clamp(min=0).float())
    best, result = torch.zeros(like.shape[1:]), torch.zeros(like.shape[1:], dtype=torch.int64)
    for organ in range(classes + 1):
        share = torch.einsum("ih,hwd,jw->ijd", axes[0], (moved.as_tensor()[0] == organ).float(), axes[1])
        result[share > best] = organ
        best = torch.maximum(best, share)
    return result


def scores(label: Tensor, moved: Tensor, returned: Tensor, organ: int, factor: float) -> tuple[float, float, float]:
    """Return Dice after the way back, volume kept, and the share of slices lost, of an organ that is there."""
    own, again, there = label == organ, returned == organ, moved == organ
    dice = 2 * (own & again).sum() / (own.sum() + again.sum())
    volume = there.sum() * factor**2 / own.sum()
    shown = own.flatten(0, 1).any(0)
    lost = (shown & ~there.flatten(0, 1).any(0)).sum() / shown.sum()
    return float(dice), float(volume), float(lost)


def table(make: Callable[[], Iterable[MetaTensor]], organs: dict[str, int], factors: list[float]) -> list[str]:
    """Return the lines of the table."""
    found: dict[tuple[float, str, int], list[tuple[float, float, float]]] = {}
    for label in make():
        for factor in factors:
            for rule, moved in zip(("nearest", "ours"), coarse(label, factor), strict=True):
                returned = back(moved, label, max(organs.values()))
                for organ in organs.values():
                    if (label == organ).any():
                        parts = (label.as_tensor()[0], moved.as_tensor()[0], returned, organ, factor)
                        found.setdefault((factor, rule, organ), []).append(scores(*parts))
    lines = ["| factor | organ | n | Dice nearest / ours | volume kept nearest / ours | slices lost nearest / ours |"]
    lines.append("|---|---|---|---|---|---|")
    for factor in factors:
        for name, organ in organs.items():
            if (factor, "ours", organ) not in found:
                continue
            both = [np.mean(found[factor, rule, organ], axis=0) for rule in ("nearest", "ours")]
            cells = [" / ".join(f"{part[i]:.3f}" for part in both) for i in range(3)]
            lines.append(f"| {factor:g} | {name} | {len(found[factor, 'ours', organ])} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factors", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--labels", type=Path, help="folder of label volumes, in place of phantoms")
    parser.add_argument("--card", default="phantom")
    parser.add_argument("--organs", nargs="+", help="names of the card; all by default")
    args = parser.parse_args()
    labels = load_card(args.card).labels
    organs = {name: labels[name] for name in args.organs or labels}
    lines = table(phantoms if args.labels is None else lambda: files(args.labels), organs, args.factors)
    record("label_resampling", [*lines, "", "n: volumes with the organ"])


if __name__ == "__main__":
    main()
