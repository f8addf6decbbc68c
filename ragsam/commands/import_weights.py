"""`ragsam import`: published checkpoints become weights or a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("import", help="a published checkpoint as weights to start with, or as a run")
    parser.add_argument("format", choices=["sam", "medsam", "samed", "medical-sam-adapter", "sam-adapter"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--base", type=Path, metavar="SAM", help="the SAM that it was made on")
    parser.add_argument("--output", type=Path, metavar="FILE.safetensors")
    parser.add_argument("--run", type=Path, help="write a run that segments with it; needs --card")
    parser.add_argument("--card", help="of its classes, in their order: a name, or a .yaml file of your own")
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels (default: the file's; 512 for samed)")
    parser.add_argument(
        "--normalisation", choices=["unit", "sam", "minmax"], help="of slices (default: the format's own)"
    )
    parser.add_argument(
        "--slice-layout",
        choices=["ras", "file"],
        help="of the slices in its training: file, as they are stored, [Y, X]; ras, [X, Y] of RAS (default: the "
        "format's own; asked for where it has none)",
    )
    parser.add_argument(
        "--thd", choices=["true", "false"], help="whether Medical-SAM-Adapter was trained in 3D mode (its -thd)"
    )
    parser.add_argument(
        "--activation",
        choices=["relu", "gelu"],
        help="in the mask decoder's transformer, of Medical-SAM-Adapter from 2024-01 on",
    )
    parser.add_argument(
        "--windows",
        choices=["before-norm", "after-norm"],
        help="where its image encoder cuts them, of Medical-SAM-Adapter from 2024-01 on",
    )
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Import a checkpoint."""
    from ragsam.api.import_weights import import_weights

    report = import_weights(
        args.format,
        args.checkpoint,
        base=args.base,
        output=args.output,
        run=args.run,
        card=args.card,
        image_size=args.image_size,
        normalisation=args.normalisation,
        slice_layout=args.slice_layout,
        thd=None if args.thd is None else args.thd == "true",
        activation=args.activation,
        windows=args.windows,
        overwrite=args.overwrite,
    )
    for line in report.lines():
        say(line)
    if args.output:
        say(f"weights: {args.output}")
        say(f"next: ragsam train sam_lora --data DATALIST --output RUN --set start={args.output}{_base_option(args)}")
    if args.run:
        say(f"run: {args.run}")
        say(f"next: ragsam segment {args.run} INPUT --output DIR")


def _base_option(args: argparse.Namespace) -> str:
    return f" --set base={args.base}" if args.base else ""
