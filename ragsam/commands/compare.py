"""`ragsam compare`: evaluations of the same cases side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("compare", help="two or more evaluations of the same cases, against the first")
    parser.add_argument(
        "evaluation", type=Path, nargs="+", help="folders that evaluate wrote; the first is compared with"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Compare evaluations."""
    from ragsam.evaluation.compare_runs import metrics_file, read_runs
    from ragsam.report.compare_page import write_comparison
    from ragsam.report.compare_tables import summary_lines

    runs, reads = read_runs(args.evaluation), map(metrics_file, args.evaluation)
    for line in summary_lines(write_comparison(runs, args.output, reads=reads, overwrite=args.overwrite)):
        say(line)
    say(f"page: {args.output / 'compare.html'}")
