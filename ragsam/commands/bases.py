"""`ragsam bases`: the base weights that are known by name."""

from __future__ import annotations

import argparse

from ragsam.commands.terminal import say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("bases", help="the base weights that are known by name, and which are installed")
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """List the bases."""
    from ragsam.api.bases import bases_page, known_bases

    say(bases_page(known_bases()))
