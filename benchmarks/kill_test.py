"""Kill trainings at random moments, resume them, and compare what they end in with one that nothing stopped.

    python benchmarks/kill_test.py [--kills 20] [--kills-a-run 4] [--seed 0] [--output DIR]

Each training is `ragsam train sam_lora ... --resume` in a process of its own, killed by SIGKILL: in turn at any moment
of its life, right after an epoch's steps, when it validates or writes what it keeps, and while a file is being written.
The bank follows the encoder (`descriptor=embedding`), so that a bank out of date has to be the same one again. Equal to
the bit must be the best weights, and the last weights, optimizer, schedule, best score and log; seconds may differ. A
process that ended before its kill is not counted. Exit code 1 where a run differs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ragsam.data.phantom.write import write_phantoms
from ragsam.networks.checkpoints import load_weights, read_checkpoint

OPTIONS = {"epochs": 6, "steps_per_epoch": 3, "batch_size": 4, "validate_every": 1, "image_size": 32}
OPTIONS |= {"spacing_mm": [12.0, 12.0], "detail": False, "descriptor": "embedding", "elastic": 0.3}
MOMENTS = ("at any moment", "validating or keeping", "writing a file")
_LONGEST_S = 600.0


def command(data: Path, run: Path) -> list[str]:
    """Return the command that trains a run, or continues with it."""
    options = [f"--set={name}={value}" for name, value in OPTIONS.items()]
    train = [sys.executable, "-m", "ragsam.cli", "train", "sam_lora", "--data", str(data), "--output", str(run)]
    return [*train, *options, "--resume"]


def wait_for(moment: str, process: subprocess.Popen[str], run: Path, epoch_s: float, draw: random.Random) -> None:
    """Wait for a moment to kill a process; it gives a line an epoch."""
    left = OPTIONS["epochs"] - epochs_done(run)
    lines = draw.randint(moment == "validating or keeping", max(left - 1, 1))
    while lines and (line := process.stderr.readline()):
        lines -= "train: epoch" in line
    if moment == "writing a file":
        while process.poll() is None and not any(run.rglob(".tmp-*")):
            time.sleep(0.001)
    else:
        time.sleep(draw.uniform(0, 1.0 if moment == "at any moment" else 0.3) * epoch_s)


def kill_once(moment: str, data: Path, run: Path, epoch_s: float, draw: random.Random) -> str | None:
    """Start or resume a run and kill it; return what it had done, or None if it ended by itself."""
    with subprocess.Popen(command(data, run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        wait_for(moment, process, run, epoch_s, draw)
        ended = process.poll() is not None
        process.kill()
    if ended:
        return None
    halves = len(list(run.rglob(".tmp-*")))
    return f"after epoch {epochs_done(run)}" + (f", {halves} file half written" if halves else "")


def epochs_done(run: Path) -> int:
    """Return the epochs that a run would not do again."""
    path = run / "checkpoints" / "last.pt"
    return read_checkpoint(path)["trainer"]["iteration"] // OPTIONS["steps_per_epoch"] if path.exists() else 0


def train(data: Path, run: Path) -> float:
    """Train a run to its end; return the seconds that took."""
    start = time.monotonic()
    subprocess.run(command(data, run), check=True, capture_output=True, timeout=_LONGEST_S)
    return time.monotonic() - start


def end_of(run: Path) -> dict[str, Any]:
    """Return what a training ended in, without seconds."""
    state = read_checkpoint(run / "checkpoints" / "last.pt")
    state["trainer"] = {name: value for name, value in state["trainer"].items() if name != "history"}
    rows = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    timed = {index for index, name in enumerate(rows[0]) if "second" in name or "memory" in name}
    log = [[value for index, value in enumerate(row) if index not in timed] for row in rows]
    return {"best": load_weights(run / "models" / "model.safetensors")[0], "last": state, "log": log}


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def main() -> int:
    """Print a line a kill and a line a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills-a-run", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the moments; the machine's pace has a say too")
    parser.add_argument("--output", type=Path, help="folder to keep everything in (default: none is kept)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return kill_runs(args.output or Path(temporary), args.kills, args.kills_a_run, random.Random(args.seed))


def kill_runs(folder: Path, kills: int, kills_a_run: int, draw: random.Random) -> int:
    """Kill and resume runs until there were enough kills; return how many ended in something else."""
    data = write_phantoms(folder / "data", training=4, validation=2, test=1)
    life_s = train(data, folder / "whole")
    whole, done, runs, unlike = end_of(folder / "whole"), 0, 0, 0
    print(f"{date.today()}: a training that nothing stops takes {life_s:.0f} s, {OPTIONS['epochs']} epochs")
    while done < kills:
        run = folder / f"run-{runs}"
        for _ in range(min(kills_a_run, kills - done)):
            moment = MOMENTS[done % len(MOMENTS)]
            state = kill_once(moment, data, run, life_s / OPTIONS["epochs"], draw)
            if state is None:
                break
            done += 1
            print(f"kill {done}: {moment}: {state}", flush=True)
        train(data, run)
        equal = same(end_of(run), whole)
        runs, unlike = runs + 1, unlike + (not equal)
        print(f"{run.name}: resumed to its end, {'identical' if equal else 'DIFFERENT'}", flush=True)
    print(f"{done} kills in {runs} runs; {runs - unlike} of {runs} end identical")
    return int(unlike > 0)


if __name__ == "__main__":
    raise SystemExit(main())
