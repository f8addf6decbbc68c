"""How far one gets on the phantom without looking at the image: the mean label map of the training patients.

    python benchmarks/phantom_mean_label.py [--training 24] [--test 6] [--seed 0]

The label maps, turned to RAS, are laid on a common grid, once by relative index and once in mm from the volume's
middle; their mean one-hot map's argmax is the guess for every test patient. The table is of Dice by organ.
"""

from __future__ import annotations

import argparse

import nibabel
import numpy as np
from record import record
from scipy.ndimage import map_coordinates

from ragsam.data.cards.load import load_card
from ragsam.data.phantom.write import STORAGES, make_phantom


def canonical(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One patient's label map in RAS and its spacing, (3,), mm."""
    storage = {3: "flipped", 6: "flipped", 7: "oblique"}.get(index % 8, STORAGES[0])
    _, label, affine = make_phantom(seed, storage=storage)
    volume = nibabel.as_closest_canonical(nibabel.Nifti1Image(label, affine))
    return np.asarray(volume.dataobj), np.array(volume.header.get_zooms())


def sample(label: np.ndarray, spacing: np.ndarray, shape: tuple, target: np.ndarray | None) -> np.ndarray:
    """Nearest labels on a grid of `shape`: of `target` spacing about the middle, or of the same extent for None."""
    step = (np.array(label.shape) / shape) if target is None else target / spacing
    index = np.indices(shape, dtype=float)
    middle, half = (np.array(label.shape) - 1) / 2, (np.array(shape) - 1) / 2
    place = [(index[a] - half[a]) * step[a] + middle[a] for a in range(3)]
    return map_coordinates(label, place, order=0, mode="constant")


def mean_label_dice(training: int, test: int, seed: int, *, by_mm: bool) -> np.ndarray:
    """Dice, [test, 13], of the mean label map of `training` patients on `test` other patients."""
    number = load_card("phantom").num_classes + 1
    patients = [canonical(1000 * seed + index, index) for index in range(training + 2 + test)]
    shape, spacing = (84, 76, 52), np.array([4.0, 4.0, 5.5])
    votes = np.zeros((number, *shape), np.int32)
    for label, zooms in patients[:training]:
        votes += sample(label, zooms, shape, spacing if by_mm else None) == np.arange(number)[:, None, None, None]
    guess = votes.argmax(axis=0).astype(np.uint8)
    rows = []
    for label, zooms in patients[training + 2 :]:
        step = zooms if by_mm else spacing * shape / label.shape
        found = sample(guess, spacing, label.shape, step)
        both = [((found == k) & (label == k)).sum() for k in range(1, number)]
        rows.append([2 * n / ((found == k).sum() + (label == k).sum()) for k, n in enumerate(both, start=1)])
    return np.array(rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", type=int, default=24)
    parser.add_argument("--test", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    by_index, by_mm = (mean_label_dice(args.training, args.test, args.seed, by_mm=mm) for mm in (False, True))
    lines = [f"mean label map of {args.training} phantoms on {args.test} others, seed {args.seed}: Dice", ""]
    lines += ["| organ | by index | by mm |", "|---|---|---|"]
    for organ in load_card("phantom").organs:
        column = organ.value - 1
        lines.append(f"| {organ.name} | {by_index[:, column].mean():.3f} | {by_mm[:, column].mean():.3f} |")
    lines.append(f"| mean of organs and cases | {by_index.mean():.3f} | {by_mm.mean():.3f} |")
    record("phantom_mean_label", lines)


if __name__ == "__main__":
    main()
