"""How long it takes to start: the command line's help, and the package beyond PyTorch.

    python benchmarks/startup.py

Seconds on the wall, medians of seven, each in a process of its own, in turns. Returns 1 where a target is missed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from record import record

COMMANDS = {
    "help": ["-m", "ragsam.cli", "--help"],
    "torch": ["-c", "import torch"],
    "both": ["-c", "import torch, ragsam"],
}
HELP, BEYOND = 0.5, 0.3


def seconds(arguments: list[str]) -> float:
    """Return how long Python takes for something."""
    start = time.monotonic()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main() -> int:
    """Measure, print the table, and return 1 where a target is missed."""
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(7)]
    found = {name: statistics.median(times[name] for times in rounds) for name in COMMANDS}
    beyond = statistics.median(times["both"] - times["torch"] for times in rounds)
    lines = ["| start | s | target |", "|---|---|---|"]
    lines.append(f"| `ragsam --help` | {found['help']:.2f} | {HELP} |")
    lines.append(f"| `import ragsam` beyond `import torch` ({found['torch']:.2f} s) | {beyond:.2f} | {BEYOND} |")
    record("startup", lines)
    return int(found["help"] > HELP or beyond > BEYOND)


if __name__ == "__main__":
    raise SystemExit(main())
