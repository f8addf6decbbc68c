"""`ragsam verify`: every check of a bundle."""

from __future__ import annotations

import argparse

from ragsam.commands.terminal import complain, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("verify", help="every check of a bundle; read as data before it is run")
    parser.add_argument("bundle", help="a run, a bundle's folder, or the name of a packaged one (sam_lora)")
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> int:
    """Verify a bundle; return 2 where there are faults."""
    from ragsam.api.verify import verify_bundle

    found = verify_bundle(args.bundle)
    for name in found.passed:
        say(f"passed: {name}")
    for line in found.left_out:
        say(f"left out: {line}")
    for line in found.faults:
        complain(line)
    return 2 if found.faults else 0
