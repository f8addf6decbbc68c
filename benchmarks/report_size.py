"""How long the report of an evaluation takes and how large the page is, with pictures, neighbours and the viewer.

    python benchmarks/report_size.py [--cases 30] [--size 192 192 64] [--viewer 3] [--output runs/report_size]

Makes `--cases` patients (the phantom's 13 organs, enlarged to `--size`, with a CT's noise), predictions that are
shifted and in part grown, with an organ missed in every other case, and a trace of four neighbours a slice.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nibabel
import numpy as np
from record import record
from scipy.ndimage import zoom

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.data.phantom.write import make_phantom
from ragsam.evaluation.case_pairs import CasePair
from ragsam.evaluation.score_cases import evaluate_cases
from ragsam.inference.evaluation import versions
from ragsam.report.page import write_report

NEIGHBOURS = 4
NOISE_HU = 12.0


def make_case(folder: Path, number: int, size: tuple[int, int, int]) -> CasePair:
    """Write image, reference and prediction of one made patient."""
    image, label, affine = make_phantom(number)
    factors = [wanted / had for wanted, had in zip(size, label.shape, strict=True)]
    rng = np.random.default_rng(number)
    image = zoom(image.astype(np.float32), factors, order=1) + rng.normal(0, NOISE_HU, size)
    label = zoom(label, factors, order=0)
    affine = affine @ np.diag([*(1 / factor for factor in factors), 1.0])
    prediction = np.roll(label, (number % 4, number % 3, 0), axis=(0, 1, 2))
    if number % 3:  # they are too large on one side
        prediction = np.maximum(prediction, np.roll(prediction, number % 3, axis=0))
    prediction[prediction == 1 + number % 26] = 0  # in every other case one organ is missed
    volumes = {"image": image.astype(np.int16), "reference": label, "prediction": prediction}
    paths = {name: folder / name / f"case{number:02d}.nii.gz" for name in volumes}
    for name, volume in volumes.items():
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volume, affine), paths[name])
    return CasePair(f"case{number:02d}", f"p{number:02d}", paths["reference"], paths["prediction"], paths["image"])


def make_trace(pairs: list[CasePair], slices: int) -> dict:
    """Return a retrieval.json in which each slice's neighbours are the same slice of the next cases."""
    cases = {}
    for number, pair in enumerate(pairs):
        near = [pairs[(number + step) % len(pairs)] for step in range(1, NEIGHBOURS + 1)]
        found = {
            str(z): [
                {"patient": f"p{n.case}", "case": f"c{n.case}", "slice": z, "similarity": 0.9, "weight": 0.25, "row": z}
                for n in near
            ]
            for z in range(slices)
        }
        cases[pair.case] = {"orientation": "RAS", "axis": 2, "slices": found}
    return {"bank": {"slices": slices * len(pairs), "patients": len(pairs), "fingerprint": "made"}, "cases": cases}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--size", type=int, nargs=3, default=(192, 192, 64))
    parser.add_argument("--viewer", type=int, default=3, help="cases with a 3D view")
    parser.add_argument("--output", type=Path, default=Path("runs/report_size"))
    args = parser.parse_args()
    size, card = tuple(args.size), load_card("phantom")
    pairs = [make_case(args.output / "volumes", number, size) for number in range(args.cases)]
    support = {f"c{p.case}": Case(p.case, p.patient, p.image, p.reference, None, {}) for p in pairs}
    started = time.perf_counter()
    metrics = evaluate_cases(pairs, card)
    measured = time.perf_counter()
    page = args.output / "report.html"
    options = {"trace": make_trace(pairs, size[2]), "support_cases": support}
    options["provenance"] = {"evaluated with": versions()}
    write_report(metrics, page, card=card, pairs=pairs, viewer=args.viewer, **options)
    done = time.perf_counter()
    lines = ["| metrics, s | report, s | page, MB |", "|---|---|---|"]
    lines.append(f"| {measured - started:.1f} | {done - measured:.1f} | {page.stat().st_size / 1e6:.1f} |")
    about = f"{args.cases} cases of {size}, {len(card.organs)} organs; {args.viewer} in the 3D view"
    record("report_size", [*lines, "", about])


if __name__ == "__main__":
    main()
