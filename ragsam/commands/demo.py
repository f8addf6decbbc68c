"""`ragsam demo`: the whole main job on synthetic patients, or on given data."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_options, chosen_options, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("demo", help="the whole main job, on made patients or given data")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--data", type=Path, metavar="DATALIST", help="data to use instead of phantoms")
    parser.add_argument("--base", metavar="SAM", help="weights to tune: a name of `ragsam bases`, or a file")
    add_options(parser, "set an option of the training")
    parser.set_defaults(job=run, kept=kept)


def run(args: argparse.Namespace) -> None:
    """Run the demo, and say what came out."""
    from ragsam.api.demo import run_demo

    options = chosen_options(args)
    if args.base:
        options["base"] = args.base
    result = run_demo(args.output, datalist=args.data, **options)
    for name, how in (("without", "with retrieval switched off"), ("with", "with retrieval")):
        say(f"mean Dice {how}: {result[name]['mean']:.4f} (n = {result[name]['n']} patients)")
    say(
        f"took {sum(result['seconds'].values()):.0f} s: "
        + ", ".join(f"{k} {v:.0f}" for k, v in result["seconds"].items())
    )
    say(f"picture: {result['picture']}")
    say(f"report: {result['report']}")


def kept(args: argparse.Namespace) -> str:
    """Return what an interrupted demo keeps, and how to continue."""
    return f"{args.output} is not complete; the command starts it again"
