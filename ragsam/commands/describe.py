"""`ragsam describe`: the parts of a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_options, add_overwrite, chosen_options, json_output, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("describe", help="what trains and what is frozen, part by part, and what it takes")
    parser.add_argument("bundle", help="a run, a bundle's folder, or the name of a packaged one (sam_lora)")
    parser.add_argument("--card", help="needed unless it is a run: a card's name, or a .yaml file of your own")
    add_options(parser, "as in training")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it as JSON")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Describe a bundle or a run."""
    from ragsam.api.describe import describe, description_text
    from ragsam.files import write_json_atomic

    with json_output(args, reads=[args.bundle, *filter(None, (args.card,))]):
        about = describe(args.bundle, card=args.card, options=chosen_options(args))
        say(description_text(about))
        if args.json:
            write_json_atomic(args.json, about)
