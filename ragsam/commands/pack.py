"""`ragsam pack`: a run becomes a zip."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("pack", help="a run as one file, to segment with elsewhere")
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.zip")
    parser.add_argument("--no-bank", action="store_true", help="leave the support bank out")
    parser.add_argument("--with-base", action="store_true", help="put the base weights in")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Pack a run."""
    from ragsam.api.pack import pack_run

    packed = pack_run(args.run, args.output, bank=not args.no_bank, with_base=args.with_base, overwrite=args.overwrite)
    say(f"packed: {args.output}, {packed.files} files, {args.output.stat().st_size / 1e6:.1f} MB")
    for name in packed.left_out:
        say(f"left out: {name}, which is not part of a run")
    if packed.bank:
        say("bank: in it, with label maps of the training patients; --no-bank leaves it out")
    if packed.base:
        held = "in it" if packed.with_base else f"left out: {packed.base}, SHA-256 {packed.base_sha256}"
        say(f"base weights: {held}")
    say(f"next: ragsam unpack {args.output} --output RUN")
