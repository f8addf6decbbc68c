"""`ragsam doctor`: what works on this machine."""

from __future__ import annotations

import argparse

from ragsam.commands.terminal import say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="what works here, and what to do about the rest")
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> int:
    """Examine this machine; return 2 where something is missing."""
    from ragsam.api.doctor import examine, finding_lines

    findings = examine()
    for line in finding_lines(findings):
        say(line)
    return 2 if any(finding.state == "fault" for finding in findings) else 0
