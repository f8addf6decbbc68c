"""`ragsam unpack`: a zip becomes a run again."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("unpack", help="a packed run as a run again")
    parser.add_argument("archive", type=Path, metavar="FILE.zip")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN")
    parser.add_argument("--base", type=Path, metavar="SAM", help="the base weights, if the file lacks them")
    parser.add_argument("--max-gb", type=float, default=10.0, metavar="N", help="what it may grow to (default: 10)")
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Unpack a run."""
    from ragsam.api.unpack import unpack_run

    packed = unpack_run(args.archive, args.output, base=args.base, max_gb=args.max_gb)
    say(f"run: {args.output}, {packed.files} files, {packed.size / 1e6:.1f} MB")
    say("a run is code: use it only if you trust its source")
    for line in packed.code:
        say(f"runs other code than this package's: {line}")
    if packed.base and not packed.with_base and not args.base:
        say(f"base weights: put {packed.base} into {args.output / 'base'}, SHA-256 {packed.base_sha256}")
    if not packed.bank:
        say("bank: not in it; the run segments without retrieval")
    say(f"next: ragsam segment {args.output} INPUT --output DIR")
