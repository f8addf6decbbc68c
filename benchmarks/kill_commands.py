"""Kill commands at random moments: nothing half-written may stand under a final name, and the same command must finish.

    python benchmarks/kill_commands.py [--kills 100] [--seed 0] [--output DIR]

In turn a command trains, indexes, adds to a bank, removes from it, segments, evaluates or packs, in a forked process
that SIGKILL ends at a random moment of its life, or while a file is being written. Then every file under a final name
is read to its end, the same command is given again, and what it leaves is compared with what an undisturbed one leaves.
Exit code 1 where a file was torn, a repeated command failed, a temporary file was left or a result differed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import yaml
from fuzz import import_all, make_stock
from fuzz_kinds import Stock
from safetensors.torch import load_file

from ragsam.cli import main as ragsam
from ragsam.retrieval.bank import Bank

JOBS = ("train", "index", "add", "remove", "segment", "evaluate", "pack")
TEMPORARY = ".tmp-"


def command(job: str, stock: Stock, folder: Path) -> list[str]:
    """Return a job's command, on a copy of the run in a folder."""
    run, out = str(folder / "run"), str(folder / "out")
    evaluated = ["--reference", str(stock.study), "--prediction", str(stock.segmented), "--jobs", "1"]
    small = [f"--set={option}" for option in ("epochs=2", "steps_per_epoch=3", "batch_size=4", "validate_every=1")]
    return {
        "train": ["train", "sam_lora", "--data", str(stock.study), "--output", out, *small, "--resume"],
        "index": ["index", run],
        "add": ["index", run, "--add", str(stock.study), "--section", "test"],
        "remove": ["index", run, "--remove", "patient-bert"],
        "segment": ["segment", run, str(stock.study), "--output", out],
        "evaluate": ["evaluate", *evaluated, "--output", out],
        "pack": ["pack", run, "--output", f"{out}.zip"],
    }[job]


def begin(job: str, stock: Stock, folder: Path) -> None:
    """Lay out what a job begins with; `index` builds a bank where none is."""
    shutil.copytree(stock.run, folder / "run")
    if job == "index":
        shutil.rmtree(folder / "run" / "bank")


def forked(arguments: list[str]) -> multiprocessing.Process:
    """Start a command in a process of its own."""

    def job() -> None:
        with open(os.devnull, "w") as nothing, open("said.txt", "a") as said:
            os.dup2(nothing.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.stderr = said
            code = ragsam(arguments)
            said.flush()
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    return process


def kill_at_random(arguments: list[str], folder: Path, life_s: float, draw: random.Random) -> bool:
    """Start a command and kill it; return whether it still ran."""
    process = forked(arguments)
    if draw.random() < 0.5:
        process.join(draw.uniform(0, life_s))
    else:  # while a file is written, one of the first few
        for _ in range(draw.randint(1, 4)):
            while process.is_alive() and not any(folder.rglob(f"{TEMPORARY}*")):
                time.sleep(0.0005)
            process.join(draw.uniform(0, 0.01))
    ran = process.is_alive()
    process.kill()
    process.join()
    return ran


READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
    ".safetensors": load_file,
    ".zip": lambda path: zipfile.ZipFile(path).testzip(),
    ".csv": lambda path: require_even_rows(path),
    ".html": lambda path: require_end(path, "</html>"),
}


def require_even_rows(path: Path) -> None:
    """Refuse a table whose rows differ in length, or whose last line does not end."""
    with path.open(newline="") as stream:
        if len({len(row) for row in csv.reader(stream)}) > 1:
            raise ValueError("rows of several lengths")


def require_end(path: Path, end: str) -> None:
    """Refuse a text that does not end as it should."""
    text = path.read_text()
    if not text.rstrip().endswith(end):
        raise ValueError("cut short")


def torn_files(folder: Path) -> list[str]:
    """Return the files under final names that are not whole, with what is wrong."""
    torn = []
    for path in sorted(folder.rglob("*")):
        reader = READERS.get(path.suffix)
        if reader and not path.name.startswith(TEMPORARY) and path.parent.name != "bank":
            try:
                reader(path)
            except Exception as error:  # each reader has its own
                torn.append(f"{path.relative_to(folder)} ({type(error).__name__}: {error})")
    bank = folder / "run" / "bank"
    if (bank / "manifest.json").exists():
        try:
            Bank.open(bank)
        except Exception as error:
            torn.append(f"run/bank ({error})")
    return torn


def result_of(job: str, folder: Path) -> dict[str, str]:
    """Return the digests of what a job leaves, without what holds a time."""
    if job == "train":
        weights = load_file(folder / "out" / "models" / "model.safetensors")
        return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in weights.items()}
    if job in ("index", "add", "remove"):
        bank = folder / "run" / "bank"
        digests = sorted(digest(path) for path in bank.glob("*.npy"))  # their names hold a random part
        return {"bank": " ".join(digests)}
    if job == "pack":
        with zipfile.ZipFile(folder / "out.zip") as archive:
            return {info.filename: str(info.CRC) for info in archive.infolist()}
    kept = [*(folder / "out").glob("*.nii.gz"), *(folder / "out").glob("metrics.json")]
    return {str(path.relative_to(folder)): digest(path) for path in kept}


def digest(path: Path) -> str:
    """Return a file's digest."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def undisturbed(job: str, stock: Stock, folder: Path) -> tuple[dict[str, str], float]:
    """Run a job to its end; return what it leaves and its seconds."""
    begin(job, stock, folder)
    start = time.monotonic()
    process = forked(command(job, stock, folder))
    process.join()
    if process.exitcode:
        raise SystemExit(f"{job}: exit code {process.exitcode} without a kill; see said.txt")
    return result_of(job, folder), time.monotonic() - start


def faults_after_kill(job: str, stock: Stock, folder: Path, whole: dict[str, str]) -> list[str]:
    """Return what is wrong after a kill, and after the same command was given again."""
    faults = [f"torn: {name}" for name in torn_files(folder)]
    process = forked(command(job, stock, folder))
    process.join()
    if process.exitcode:
        return [*faults, f"repeated, it ends with {process.exitcode}"]
    faults += [f"torn after repeating: {name}" for name in torn_files(folder)]
    faults += [f"left: {path.relative_to(folder)}" for path in folder.rglob(f"{TEMPORARY}*")]
    found = result_of(job, folder)
    faults += [f"differs: {name}" for name in sorted(whole.keys() | found.keys()) if whole.get(name) != found.get(name)]
    return faults


def main() -> int:
    """Print a line a kill that went wrong, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments; the machine's pace has a say too")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--output", type=Path, help="keeps what went wrong")
    args = parser.parse_args()
    import_all()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.output.absolute() if args.output else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stock = make_stock(folder)
        os.chdir(folder)
        return kill_jobs(folder, args.jobs, stock, args.kills, random.Random(args.seed))


def kill_jobs(folder: Path, jobs: list[str], stock: Stock, kills: int, draw: random.Random) -> int:
    """Kill jobs in turn until there were enough kills; return 1 where one went wrong."""
    whole = {job: undisturbed(job, stock, folder / f"whole-{job}") for job in jobs}
    done, wrong = dict.fromkeys(jobs, 0), 0
    while sum(done.values()) < kills:
        job = jobs[sum(done.values()) % len(jobs)]
        place = folder / f"{job}-{done[job]}"
        begin(job, stock, place)
        left, life_s = whole[job]
        if kill_at_random(command(job, stock, place), place, life_s, draw):
            faults = faults_after_kill(job, stock, place, left)
            done[job] += 1
            wrong += bool(faults)
            for fault in faults:
                print(f"{place.name}: {fault}", flush=True)
            if faults:
                continue
        shutil.rmtree(place)
    counts = ", ".join(f"{job} {count}" for job, count in done.items())
    print(f"{date.today()}: {sum(done.values())} kills ({counts}); {wrong} went wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
