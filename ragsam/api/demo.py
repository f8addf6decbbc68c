"""The main job from end to end, on synthetic patients or on given data."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.data.cards.load import Card, load_card
from ragsam.data.datalist import Case, load_datalist, paths_of
from ragsam.data.phantom.write import write_phantoms
from ragsam.errors import InputError
from ragsam.evaluation.score_cases import pairs_from_cases
from ragsam.files import write_json_atomic
from ragsam.inference.evaluation import TRACE_NAME, report_evaluation
from ragsam.io.documents import read_json
from ragsam.report.cases import worst_first
from ragsam.report.demo_figure import write_overview
from ragsam.report.trace_file import read_trace
from ragsam.retrieval.bank import Bank, pseudonym
from ragsam.runs.run import run_config
from ragsam.runs.templates import make_run

logger = logging.getLogger(__name__)

MARK = "demo.json"
OVERVIEW = "overview.png"
_PARTS = ("data", "run", OVERVIEW)
_PARTS += tuple(f"{kind}-{how}-retrieval" for kind in ("predictions", "evaluation") for how in ("without", "with"))
#: Fits six minutes on two cores, data, training, two segmentations and the report together.
PHANTOM_OPTIONS = {"epochs": 8, "steps_per_epoch": 25, "validate_every": 8}


def run_demo(
    output: str | os.PathLike[str], *, datalist: str | os.PathLike[str] | None = None, **options: Any
) -> dict[str, Any]:
    """Train, index, segment with and without retrieval, evaluate and report.

    Args:
        output: folder for everything; what an older demo wrote there is replaced.
        datalist: data to use; None makes phantoms.
        options: of the bundle's training.

    Returns:
        {"report": path, "picture": path, "with": mean Dice, "without": mean Dice, "seconds": by step}.

    Raises:
        InputError: an output folder that holds something other than an earlier demo, or the data; a faulty datalist.
    """
    output = Path(output)
    _make_room(output, datalist)
    seconds: dict[str, float] = {}
    clock = time.monotonic()

    def step(name: str) -> None:
        nonlocal clock
        now = time.monotonic()
        seconds[name] = round(now - clock, 1)
        clock = now

    if datalist is None:
        logger.info("1 of 5: making phantom patients")
        datalist = write_phantoms(output / "data")
        options = {**PHANTOM_OPTIONS, **options}
    step("data")
    logger.info("2 of 5: training")
    run = make_run("sam_lora", datalist, output / "run", options)
    run_config(run, "train")
    step("train")
    logger.info("3 of 5: building the support bank")
    bank, slices, patients = index_run(run)
    logger.info("bank: %d slices of %d patients", slices, patients)
    step("index")
    logger.info("4 of 5: segmenting the held-out patients without and with retrieval")
    for name, retrieval in (("without", False), ("with", True)):
        segment_with_run(run, [datalist], output / f"predictions-{name}-retrieval", retrieval=retrieval)
    step("segment")
    logger.info("5 of 5: measuring and reporting")
    results = _report(output, datalist, bank)
    step("report")
    result = {
        "report": str(output / "evaluation-with-retrieval" / "report.html"),
        "picture": str(output / OVERVIEW),
        **{name: metrics["summary"]["mean"]["dice"] for name, metrics in results.items()},
        "seconds": seconds,
    }
    write_json_atomic(output / MARK, {"state": "done", **{k: result[k] for k in ("with", "without", "seconds")}})
    return result


def _make_room(output: Path, datalist: str | os.PathLike[str] | None) -> None:
    """Remove what an older demo wrote, and nothing else."""
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not empty and not _is_demo(output):
        raise InputError(f"{output}: holds something other than an earlier demo; choose another --output")
    if datalist is not None:  # faults are reported before anything is removed
        cases = chain.from_iterable(load_datalist(datalist).sections.values())
        for path in (Path(datalist).resolve(), *(path.resolve() for path in paths_of(cases))):
            if output.resolve() in path.parents:
                raise InputError(f"{path}: is inside {output}, which is replaced; choose another --output")
    for name in _PARTS:
        path = output / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_json_atomic(output / MARK, {"state": "started"})


def _is_demo(output: Path) -> bool:
    """Return whether a folder has the mark of a demo."""
    if not (output / MARK).is_file():
        return False
    mark = read_json(output / MARK)
    return isinstance(mark, dict) and mark.get("state") in ("started", "done")


def _report(output: Path, datalist: str | os.PathLike[str], bank: Path) -> dict[str, dict[str, Any]]:
    """Measure the predictions without and with retrieval, and draw the overview; return the metrics of both."""
    data = load_datalist(datalist)
    card = load_card(data.card)
    results: dict[str, dict[str, Any]] = {}
    for name in ("without", "with"):
        predictions = output / f"predictions-{name}-retrieval"
        results[name] = report_evaluation(
            pairs_from_cases(data.section("test"), predictions),
            card,
            predictions,
            output / f"evaluation-{name}-retrieval",
            bank=bank,
            support_cases=data.section("training"),
            baseline=results.get("without"),
            baseline_name="retrieval switched off",
        )
    _draw_overview(output, data.section("test"), data.section("training"), card, results["with"], bank)
    return results


def _draw_overview(
    output: Path,
    test: Sequence[Case],
    training: Sequence[Case],
    card: Card,
    metrics: dict[str, Any],
    bank: Path,
) -> None:
    """Draw the test case in the middle by Dice: neither the best nor the worst."""
    cases = [case for case, _ in worst_first(metrics)]
    name = cases[len(cases) // 2]["case"]
    folders = {how: output / f"predictions-{how}-retrieval" for how in ("without", "with")}
    (pair,) = pairs_from_cases([case for case in test if case.case == name], folders["with"])
    salt = Bank.open(bank).salt
    write_overview(
        output / OVERVIEW,
        card=card,
        pair=pair,
        predictions={f"{how} retrieval": folder / f"{name}.nii.gz" for how, folder in folders.items()},
        trace=read_trace(folders["with"] / TRACE_NAME),
        support_cases={pseudonym(case.case, salt, "c"): case for case in training},
    )
