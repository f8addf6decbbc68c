"""How long metrics take on a volume of 512 x 512 x 150 voxels with 13 organs, against medpy and surface-distance.

    python benchmarks/metrics_speed.py

The organs are the phantom's, enlarged; the prediction has the same with noisy borders. Both are written as .nii.gz and
read again. medpy and surface-distance (`pip install 'ragsam[test]'`) get one organ's masks of the whole volume at a
time, as they are used; medpy needs minutes for it. Seconds are the processor's, of one process and thread, whatever
else the machine does; theirs of one run, ours and reading's the median of five. The last target: all metrics in at most
three times the time of reading the files. Returns 1 where a target is missed.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from record import record
from scipy.ndimage import find_objects, gaussian_filter, zoom

from ragsam.data.cards.load import load_card
from ragsam.data.phantom.write import make_phantom
from ragsam.evaluation.read_labels import read_labels
from ragsam.metrics.boxes import common_boxes
from ragsam.metrics.overlap import dice
from ragsam.metrics.surface import assd_mm, hd95_mm, hd95_pooled_mm, surface_distances
from ragsam.metrics.surface_elements import nsd

SHAPE, SPACING = (512, 512, 150), (0.75, 0.75, 2.5)
EDGE = 2  # voxels of the phantom around an organ that its noisy border may reach
NOISE = 0.12
CARD = load_card("phantom")
ORGANS = {organ.value: organ.tolerance_mm for organ in CARD.organs}

Labels = NDArray[np.uint8]


def made_volumes() -> tuple[Labels, Labels]:
    """Return reference and prediction, in the memory order that NIfTI files have."""
    small = np.pad(make_phantom(0)[1], EDGE)
    scale = [large / n for large, n in zip(SHAPE, small.shape, strict=True)]
    rng = np.random.default_rng(0)
    reference, prediction = (np.zeros(SHAPE, np.uint8, order="F") for _ in range(2))
    for value, box in enumerate(find_objects(small), start=1):
        box = tuple(slice(s.start - EDGE, s.stop + EDGE) for s in box)
        field = zoom(gaussian_filter((small[box] == value).astype(np.float32), 0.7), scale, order=1, grid_mode=True,
                     mode="nearest")  # fmt: skip
        noise = gaussian_filter(rng.normal(size=field.shape).astype(np.float32), (3, 3, 1))
        start = [round(s.start * f) for s, f in zip(box, scale, strict=True)]
        place = tuple(slice(a, min(a + n, end)) for a, n, end in zip(start, field.shape, SHAPE, strict=True))
        cut = tuple(slice(0, s.stop - s.start) for s in place)
        for volume, chance in ((reference, field), (prediction, field + NOISE * noise / noise.std())):
            volume[place][chance[cut] > 0.5] = value
    return reference, prediction


def ours(reference: Labels, prediction: Labels, *names: str) -> dict[int, dict[str, float]]:
    """Score every organ by the metrics that are named."""
    scores = {}
    for value, box in common_boxes([reference, prediction], max(ORGANS)).items():
        first, second = reference[box] == value, prediction[box] == value
        found = scores[value] = {}
        if "dice" in names:
            found["dice"] = dice(first, second)
        if "distances" in names:
            distances = surface_distances(first, second, SPACING)
            found |= {"hd95": hd95_mm(distances), "pooled": hd95_pooled_mm(distances), "assd": assd_mm(distances)}
        if "nsd" in names:
            found["nsd"] = nsd(first, second, SPACING, ORGANS[value])
    return scores


def by_medpy(reference: Labels, prediction: Labels) -> dict[int, dict[str, float]]:
    """Score every organ's Dice and HD95 with medpy."""
    from medpy.metric import binary

    return {
        value: {"dice": binary.dc(second, first), "pooled": binary.hd95(second, first, voxelspacing=SPACING)}
        for value, first, second in masks(reference, prediction)
    }


def by_surface_distance(reference: Labels, prediction: Labels) -> dict[int, dict[str, float]]:
    """Score every organ's NSD with surface-distance."""
    import surface_distance

    found = {}
    for value, first, second in masks(reference, prediction):
        distances = surface_distance.compute_surface_distances(first, second, SPACING)
        found[value] = {"nsd": surface_distance.compute_surface_dice_at_tolerance(distances, ORGANS[value])}
    return found


def masks(reference: Labels, prediction: Labels) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield each organ's value and masks."""
    for value in ORGANS:
        yield value, reference == value, prediction == value


def timed(job: Callable[[], object]) -> tuple[float, object]:
    """Return seconds of the processor and result."""
    start = time.process_time()
    result = job()
    return time.process_time() - start, result


def read_and_score(paths: list[Path]) -> tuple[float, float, list[Labels]]:
    """Return the seconds to read two files and those to score them, and the volumes."""
    reading, volumes = timed(lambda: [np.asanyarray(nibabel.load(path).dataobj) for path in paths])
    scoring, _ = timed(lambda: ours(*volumes, "dice", "distances", "nsd"))
    return reading, scoring, volumes


def median_of_five(job: Callable[[], object]) -> tuple[float, object]:
    """Return the median of five times, and the last result."""
    times, results = zip(*(timed(job) for _ in range(5)), strict=True)
    return statistics.median(times), results[-1]


def apart(one: dict[int, dict[str, float]], other: dict[int, dict[str, float]]) -> float:
    """Return the largest difference between what both have."""
    return max(abs(one[v][k] - other[v][k]) for v in one for k in one[v].keys() & other[v].keys())


def main() -> int:
    """Measure, print the table, and return 1 where a target is missed."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.nii.gz" for name in ("reference", "prediction")]
        for path, volume in zip(paths, made_volumes(), strict=True):
            nibabel.save(nibabel.Nifti1Image(volume, np.diag([*SPACING, 1.0])), path)
        size = sum(path.stat().st_size for path in paths)
        rounds = [read_and_score(paths) for _ in range(5)]
        checked, _ = median_of_five(lambda: [read_labels(path, path.name) for path in paths])
    reading, everything = (statistics.median(seconds) for seconds in list(zip(*rounds, strict=True))[:2])
    volumes = rounds[-1][2]
    overlap, scores = median_of_five(lambda: ours(*volumes, "dice", "distances"))
    elements, shares = median_of_five(lambda: ours(*volumes, "nsd"))
    by_elements, their_shares = timed(lambda: by_surface_distance(*volumes))
    medpy, their_scores = timed(lambda: by_medpy(*volumes))
    rows = [
        ("Dice, HD95", overlap, "medpy", medpy, medpy / overlap, 50.0),
        ("NSD", elements, "surface-distance", by_elements, by_elements / elements, 5.0),
        ("Dice, HD95, ASSD, NSD", everything, "reading both files", reading, reading / everything, 1 / 3),
        ("the same", everything, "reading as evaluate does, checks included", checked, checked / everything, 0.0),
    ]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "medpy"))
    volume = " x ".join(map(str, SHAPE))
    lines = ["| ours | s | against | s | times as fast | target |", "|---|---|---|---|---|---|"]
    for name, mine, other, theirs, ratio, target in rows:
        lines.append(f"| {name} | {mine:.2f} | {other} | {theirs:.2f} | {ratio:.2f} | {target:.2f} |")
    gap = max(apart(scores, their_scores), apart(shares, their_shares))
    about = f"{volume} voxels, {len(scores)} organs, two files of {size / 1e6:.1f} MB; {versions}; "
    record("metrics_speed", [*lines, "", f"{about}largest difference between ours and theirs: {gap:.1e}"])
    return int(gap > 1e-6 or any(ratio < target for *_, ratio, target in rows))


if __name__ == "__main__":
    raise SystemExit(main())
