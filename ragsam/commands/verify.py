"""`ragsam verify`: every check of a bundle."""

from __future__ import annotations

import argparse

from ragsam.commands.terminal import complain, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("verify", help="every check of a bundle; read as data before it is run")
    parser.add_argument("bundle", help="a run, a bundle's folder, or the name of a packaged one (sam_lora)")
    parser.add_argument("--time-limit", type=float, default=30.0, metavar="MINUTES", help="default: 30")
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> int:
    """Verify a bundle; return 2 where there are faults."""
    from ragsam.api.verify_apart import verify_apart

    found = verify_apart(args.bundle, time_limit_s=args.time_limit * 60)
    for name in found.passed:
        say(f"passed: {name}")
    for line in found.left_out:
        say(f"left out: {line}")
    for line in found.faults:
        complain(line)
    return 2 if found.faults else 0
