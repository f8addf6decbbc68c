"""What commands share: lines for the person at the terminal, and the options given by `--set`."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def say(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(line + "\n")


def complain(line: str) -> None:
    """Write a line to stderr: a fault or a warning."""
    sys.stderr.write(f"ragsam: {line}\n")


def add_options(parser: argparse.ArgumentParser, about: str) -> None:
    """Add `--set KEY=VALUE`, which may be given several times."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=about)


def chosen_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `--set` was given."""
    from ragsam.runs.settings import parse_option

    return dict(map(parse_option, args.set))
