"""`ragsam export`: a run's network in another format."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("export", help="a run's network in another format")
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", required=True, choices=list(EXPORTS))
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="of onnx a new folder")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Export a network."""
    for line in EXPORTS[args.to](args):
        say(line)
    say(f"{args.to}: {args.output}")


def _export_state_dict(args: argparse.Namespace) -> list[str]:
    from ragsam.api.export_weights import export_state_dict

    return export_state_dict(args.to, args.run, args.output, overwrite=args.overwrite)


def _export_torchscript(args: argparse.Namespace) -> list[str]:
    from ragsam.api.export_torchscript import export_torchscript

    differs = export_torchscript(args.run, args.output, overwrite=args.overwrite)
    return [f"largest difference to PyTorch's logits: {differs:.1e}"]


def _export_onnx(args: argparse.Namespace) -> list[str]:
    from ragsam.api.export_onnx import export_onnx

    return [f"largest difference to PyTorch's logits: {export_onnx(args.run, args.output):.1e}"]


#: By format, what writes `args.run` to `args.output`, and returns lines on what its user has to know.
EXPORTS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "samed": _export_state_dict,
    "sam": _export_state_dict,
    "torchscript": _export_torchscript,
    "onnx": _export_onnx,
}
