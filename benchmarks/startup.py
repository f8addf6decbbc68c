"""How long it takes to start: the command line's help, the package beyond PyTorch, and the first slice of a server.

    python benchmarks/startup.py

Seconds on the wall, medians of seven, each in a process of its own, in turns. A server has its network in memory, with
random weights here; its first slice is compared with the median of three later ones, in three processes. Returns 1
where a target is missed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import torch
from record import record

from ragsam.inference.volume_inferer import VolumeInferer
from ragsam.networks import Segmenter

COMMANDS = {
    "help": ["-m", "ragsam.cli", "--help"],
    "torch": ["-c", "import torch"],
    "both": ["-c", "import torch, ragsam"],
}
HELP, BEYOND, FIRST = 0.5, 0.3, 2.0
SERVED = {"vit_tiny": 64, "vit_b": 512}


def seconds(arguments: list[str]) -> float:
    """Return how long Python takes for something."""
    start = time.monotonic()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def first_over_later(backbone: str) -> float:
    """Return how many times as long as a later slice the first one takes, in this process."""
    size = SERVED[backbone]
    network, inferer, took = Segmenter(13, backbone=backbone, image_size=size).eval(), VolumeInferer(size), []
    with torch.inference_mode():
        for _ in range(4):
            start = time.monotonic()
            inferer(torch.rand(1, 1, size, size, 1), network)
            took.append(time.monotonic() - start)
    return took[0] / statistics.median(took[1:])


def main() -> int:
    """Measure, print the table, and return 1 where a target is missed."""
    if sys.argv[1:]:
        sys.stdout.write(str(first_over_later(sys.argv[1])))
        return 0
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(7)]
    found = {name: statistics.median(times[name] for times in rounds) for name in COMMANDS}
    beyond = statistics.median(times["both"] - times["torch"] for times in rounds)
    lines = ["| start | s | target |", "|---|---|---|"]
    lines.append(f"| `ragsam --help` | {found['help']:.2f} | {HELP} |")
    lines.append(f"| `import ragsam` beyond `import torch` ({found['torch']:.2f} s) | {beyond:.2f} | {BEYOND} |")
    ratios = {}
    for backbone, size in SERVED.items():
        command = [sys.executable, __file__, backbone]
        told = [float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(3)]
        first = ratios[backbone] = statistics.median(told)
        lines.append(f"| a server's first slice over a later one, {backbone} at {size} | {first:.2f} times | {FIRST} |")
    record("startup", lines)
    return int(found["help"] > HELP or beyond > BEYOND or max(ratios.values()) > FIRST)


if __name__ == "__main__":
    raise SystemExit(main())
