"""`ragsam check`: every fault of every case of a datalist."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, complain, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="every fault of every case, a line each")
    parser.add_argument("datalist", type=Path)
    parser.add_argument("--card", help="card to check against (default: the datalist's)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write a page with statistics and plots, check.html")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write faults and statistics as JSON")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> int:
    """Check a datalist; return 2 where there are faults."""
    from ragsam.api.check import PAGE_NAME, check_data

    start = time.monotonic()
    found = check_data(
        args.datalist,
        card=args.card,
        output=args.output,
        summary_path=args.json,
        jobs=args.jobs,
        overwrite=args.overwrite,
    )
    seconds = time.monotonic() - start
    for line in found["faults"]:
        complain(line)
    for line in found["warnings"]:
        complain(f"warning: {line}")
    for line in found["notes"]:
        say(f"note: {line}")
    counts = ", ".join(f"{len(found[kind])} {kind}" for kind in ("faults", "warnings", "notes"))
    say(f"checked: {found['n_cases']} volumes of {found['n_patients']} patients in {seconds:.1f} s, {counts}")
    if args.output:
        say(f"page: {args.output / PAGE_NAME}")
    if args.json:
        say(f"summary: {args.json}")
    return 2 if found["faults"] else 0
