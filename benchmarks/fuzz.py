"""Damaged inputs through the command line: each has to be refused in clear words, or read as other readers read it.

    python benchmarks/fuzz.py [--inputs 5000] [--seed 0] [--kinds KIND ...] [--jobs 2] [--output DIR]

Each input is drawn from the seed and its number, so that `--first N --inputs 1` makes one of them again. It goes to a
command in a process of its own, which has 20 seconds. What fails: a traceback, a hang, a peak of 2 GB and more, an
accepted volume whose voxels or geometry differ from what nibabel, SimpleITK or pydicom read, and an exit code of 2
without a line that says why. Prints a Markdown table by kind; exit code 1 where an input failed. `--output` keeps the
inputs that failed and what was said.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TextIO

from fuzz_kinds import KINDS, Stock, Trial

LIMIT_S = 20
LIMIT_BYTES = 2 * 10**9
FAILURES = ("traceback", "hang", "memory", "differs", "silent")


@dataclass(frozen=True)
class Outcome:
    """What came of an input: `accepted`, `refused`, or one of `FAILURES`; and what was said."""

    kind: str
    number: int
    result: str
    text: str
    peak_bytes: int = 0


def kind_of(number: int, kinds: Sequence[str]) -> str:
    """Return the kind of an input: shares as in `KINDS`."""
    weights = [KINDS[kind][1] for kind in kinds]
    return random.Random(number).choices(kinds, weights)[0]


def try_input(
    number: int, *, seed: int, kinds: Sequence[str], stock: Stock, limit_s: float, keep: Path | None = None
) -> Outcome:
    """Make an input, and run its command in a forked process."""
    kind = kind_of(number, kinds)
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{number}-"))
    try:
        trial = KINDS[kind][0](random.Random(f"{seed}/{number}"), stock, folder)
        result, text, peak = run_forked(trial, limit_s)
        outcome = Outcome(kind, number, result, text, peak)
        if keep and result in FAILURES:
            kept = keep / f"{number}-{result}"
            shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.safetensors"))
            (kept / "said.txt").write_text(f"{kind}\n{' '.join(trial.command)}\n{text}\n")
        return outcome
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_forked(trial: Trial, limit_s: float = LIMIT_S) -> tuple[str, str, int]:
    """Run a trial in a forked process; return its result, what was said, and the most memory it took in bytes."""
    with (
        tempfile.NamedTemporaryFile("w+", suffix=".txt", errors="replace") as said,
        tempfile.TemporaryDirectory() as folder,
    ):
        process = multiprocessing.get_context("fork").Process(target=_child, args=(trial, said.name, folder))
        process.start()
        process.join(limit_s)
        if process.is_alive():
            os.kill(process.pid, signal.SIGUSR1)  # writes where it hangs
            process.join(1)
            kill_all(process.pid)
            process.join()
            return "hang", Path(said.name).read_text(errors="replace"), 0
        text = Path(said.name).read_text(errors="replace")
    first, _, rest = text.rpartition("\n=")
    if process.exitcode or not rest:
        return "traceback", f"{text}\nprocess ended with {process.exitcode}", 0
    result, peak = rest.split()
    if result in ("accepted", "refused") and int(peak) > LIMIT_BYTES:
        result = "memory"
    return result, first, int(peak)


def kill_all(pid: int) -> None:
    """Kill a process and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _child(trial: Trial, said: str, folder: str) -> None:
    """Run a trial in a folder, and write what was said and the result."""
    os.setsid()
    with open(said, "a", buffering=1, errors="replace") as out:
        faulthandler.register(signal.SIGUSR1, out)
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
        os.chdir(folder)  # a damaged config may write to a relative path
        sys.stdout = sys.stderr = out
        result = run_here(trial, out)
        used = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        out.write(f"\n={result} {used * 1024}")
        out.flush()
        os._exit(0)


def run_here(trial: Trial, out: TextIO) -> str:
    """Run a trial; return its result."""
    from ragsam.cli import main

    try:
        code = main(trial.command)
        if code == 0 and trial.judge and (told := trial.judge()):
            out.write(told)
            return "differs"
    except SystemExit as error:
        code = error.code
    except BaseException:
        out.write(traceback.format_exc())
        return "traceback"
    out.flush()
    text = Path(out.name).read_text(errors="replace")
    if "Traceback (most recent call last)" in text:
        return "traceback"
    if code == 0:
        return "accepted"
    return "refused" if code == 2 and text.strip() else "silent"


def try_inputs(
    numbers: Sequence[int],
    *,
    seed: int,
    stock: Stock,
    kinds: Sequence[str],
    jobs: int,
    limit_s: float = LIMIT_S,
    keep: Path | None = None,
) -> Iterator[Outcome]:
    """Try inputs side by side."""
    import_all()
    one = partial(try_input, seed=seed, kinds=kinds, stock=stock, limit_s=limit_s, keep=keep)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(one, numbers)


def import_all() -> None:
    """Import what the commands import when they run, before anything is forked."""
    import SimpleITK
    import torch

    import ragsam.api.describe
    import ragsam.api.evaluate
    import ragsam.api.index
    import ragsam.api.segment
    import ragsam.api.train
    import ragsam.report.compare_page  # noqa: F401

    torch.set_num_threads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def make_stock(folder: Path) -> Stock:
    """Train a small run that answers prompts, segment its test cases and evaluate them."""
    from small_study import QUICK, write_study

    from ragsam.api.evaluate import evaluate
    from ragsam.api.index import index_run
    from ragsam.api.segment import segment_with_run
    from ragsam.api.train import train_run

    study = write_study(folder / "study")
    run = train_run("sam_lora", study, folder / "run", {**QUICK, "prompts": "trained"})
    index_run(run)
    segment_with_run(run, [study], folder / "segmented")
    evaluate(study, folder / "segmented", folder / "evaluated", section="test")
    return Stock(study, run, folder / "segmented", folder / "evaluated")


def table(outcomes: Sequence[Outcome], seed: int) -> str:
    """Return a Markdown table of results by kind."""
    columns = ("accepted", "refused", *FAILURES)
    lines = [
        f"{date.today()}, {len(outcomes)} inputs, seed {seed}",
        "",
        f"| kind | inputs | {' | '.join(columns)} | peak, GB |",
    ]
    lines.append("|---" * (len(columns) + 3) + "|")
    for kind in [kind for kind in KINDS if any(outcome.kind == kind for outcome in outcomes)]:
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
        counts = Counter(outcome.result for outcome in of_kind)
        peak = max(outcome.peak_bytes for outcome in of_kind) / 1e9
        lines.append(f"| {kind} | {len(of_kind)} | {' | '.join(str(counts[name]) for name in columns)} | {peak:.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Print what failed as it fails, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="for each (default: 20)")
    parser.add_argument(
        "--output",
        type=lambda text: Path(text).resolve(),
        help="keeps what failed, and the small run for the next call",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stock = Stock(*(folder / name for name in ("study/datalist.json", "run", "segmented", "evaluated")))
        if not (stock.evaluated / "metrics.json").exists():
            stock = make_stock(folder)
        numbers = range(args.first, args.first + args.inputs)
        outcomes = []
        how = {"seed": args.seed, "kinds": args.kinds, "jobs": args.jobs, "limit_s": args.limit, "keep": args.output}
        tried = try_inputs(numbers, stock=stock, **how)
        for outcome in tried:
            outcomes.append(outcome)
            if outcome.result in FAILURES:
                last = outcome.text.strip().splitlines()[-1:] or [""]
                print(f"{outcome.number} {outcome.kind}: {outcome.result}: {last[0][:200]}", flush=True)
    print(table(outcomes, args.seed))
    return int(any(outcome.result in FAILURES for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
