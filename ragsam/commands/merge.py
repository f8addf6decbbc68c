"""`ragsam merge`: the parts of a command become one output."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("merge", help="join what index, segment or evaluate wrote with --part")
    parser.add_argument("folder", type=Path, metavar="OUTPUT", help="the --output of the parts")
    parser.add_argument("--run", type=Path, metavar="RUN", help="of a bank; default: that of RUN/bank")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Merge the parts."""
    from ragsam.api.merge import merge

    for line in merge(args.folder, run=args.run, overwrite=args.overwrite):
        say(line)
