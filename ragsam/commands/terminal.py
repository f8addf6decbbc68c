"""What commands share: lines for the person at the terminal, and the options given by `--set`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ragsam.outputs import Outputs


def say(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(line + "\n")


def complain(line: str, *, own_line: bool = False) -> None:
    """Write a line to stderr: a fault or a warning; with `own_line` below a bar, or ^C, that a terminal shows.

    What it quotes may be anybody's: line breaks and signs that steer a terminal are taken out.
    """
    line = "".join(sign if sign.isprintable() else " " for sign in line)
    start = "\n" if own_line and sys.stderr.isatty() else ""
    sys.stderr.write(f"{start}ragsam: {line}\n")


def add_options(parser: argparse.ArgumentParser, about: str) -> None:
    """Add `--set KEY=VALUE`, which may be given several times."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=about)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add `--overwrite`."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace outputs that ragsam did not write or that were changed"
    )


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add `--part I/N`."""
    parser.add_argument(
        "--part", metavar="I/N", help="only the I-th of N parts of the cases, into OUTPUT/part-I-of-N; see merge"
    )


def json_output(args: argparse.Namespace, reads: Iterable[Path]) -> AbstractContextManager[object]:
    """Return the context in which `--json` is written, where it is given; see `Outputs`."""
    return Outputs.of_file(args.json, reads=reads, overwrite=args.overwrite) if args.json else nullcontext()


def chosen_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `--set` was given."""
    from ragsam.runs.settings import parse_option

    return dict(map(parse_option, args.set))
