"""`ragsam segment`: label volumes of volumes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ragsam.commands.terminal import add_options, add_overwrite, add_part, chosen_options, say
from ragsam.errors import InputError


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("segment", help="label volumes on the inputs' own grid")
    parser.add_argument(
        "path",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="RUN, left out with --card or --base, then INPUT: NIfTI, .mha or .nrrd files, DICOM folders, or datalists",
    )
    parser.add_argument("--card", help="without a RUN: of the bank's organs; a card's name, or a .yaml file")
    parser.add_argument(
        "--base",
        metavar="SAM",
        help="without a RUN: a name of `ragsam bases`, or weights, to answer --prompts, or the bank's vote with --card",
    )
    parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="with --base and --prompts")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--section", default="test", help="of a datalist (default: test)")
    parser.add_argument("--bank", type=Path, help="default: the run's own bank/")
    parser.add_argument("--no-retrieval", action="store_true")
    parser.add_argument("--series", action="append", default=[], metavar="UID", help="of a DICOM folder with several")
    parser.add_argument("--dicom-seg", action="store_true", help="write DICOM segmentations too, of DICOM input")
    parser.add_argument("--ensemble", type=Path, nargs="+", default=[], metavar="RUN", help="average with other runs")
    parser.add_argument("--uncertainty", action="store_true", help="write a map of the entropy too")
    parser.add_argument("--probabilities", action="store_true", help="write a map for every organ too")
    add_options(parser, "such as test_shift=3")
    parser.add_argument("--prompts", type=Path, metavar="JSON", help="objects to find by clicks, boxes and drafts")
    parser.add_argument("--add-to-bank", action="store_true", help="with --prompts: their organs become neighbours")
    parser.add_argument("--labels", default="card", help="numbers to write: card (default), or raw, the data set's own")
    add_part(parser)
    add_overwrite(parser)
    parser.set_defaults(job=run, kept=kept)


def run(args: argparse.Namespace) -> None:
    """Segment, with or without prompts."""
    if args.base and args.prompts:
        _segment_by_base(args)
        return
    if args.window:
        raise InputError("--window: only with --base and --prompts; a run and a bank have their own")
    path, inputs = _run_and_inputs(args)
    if args.prompts:
        _segment_prompted(args, path, inputs)
        return
    if args.add_to_bank:
        raise InputError("--add-to-bank: only with --prompts; automatic labels are not put into a bank")
    from ragsam.api.segment import segment_with_run

    cases = segment_with_run(
        path,
        inputs,
        args.output,
        section=args.section,
        card=args.card,
        base=args.base,
        bank=args.bank,
        retrieval=not args.no_retrieval,
        series=args.series,
        dicom_seg=args.dicom_seg,
        ensemble=args.ensemble,
        uncertainty=args.uncertainty,
        probabilities=args.probabilities,
        options=chosen_options(args),
        labels=args.labels,
        part=args.part,
        overwrite=args.overwrite,
    )
    say(f"label volumes: {len(cases)} in {args.output}")
    if args.part:
        say(f"next, once all parts are there: ragsam merge {args.output}")


def kept(args: argparse.Namespace) -> str:
    """Return what an interrupted segmentation keeps, and how to continue."""
    ways = "run the command again, or with the inputs that are left"
    return f"label volumes that were finished are kept in {args.output}; to continue, {ways}"


def _run_and_inputs(args: argparse.Namespace) -> tuple[Path | None, list[Path]]:
    """Return the run that segments, None with --card, and its inputs."""
    from ragsam.runs.run import RunFolder

    first, others = args.path[0], args.path[1:]
    if args.card is None:
        if args.base:
            raise InputError("--base: only with --card or --prompts; a run has weights of its own")
        if not others:
            raise InputError(f"{first}: RUN or INPUT is missing; give both, or --card and --bank instead of RUN")
        return first, others
    if RunFolder.is_one(first):
        raise InputError(f"--card: segments without a run, and {first} is one; leave one of them out")
    if args.bank is None:
        raise InputError("--card: segments by a bank alone; name one with --bank")
    if given := [name for name in ("no_retrieval", "ensemble", "prompts") if getattr(args, name)]:
        raise InputError(f"--{given[0].replace('_', '-')}: not with --card; there is no run")
    return None, args.path


def _segment_by_base(args: argparse.Namespace) -> None:
    from ragsam.api.segment_prompts import segment_prompted_by_base
    from ragsam.runs.run import RunFolder

    if RunFolder.is_one(args.path[0]):
        raise InputError(f"--base: segments without a run, and {args.path[0]} is one; leave one of them out")
    if args.add_to_bank:
        raise InputError("--add-to-bank: base weights have no bank; segment with a RUN, or leave it out")
    _refuse_with_prompts(args, ("bank", "no_retrieval"))
    cases = segment_prompted_by_base(
        args.base,
        args.path,
        args.prompts,
        args.output,
        card=args.card,
        window=args.window,
        section=args.section,
        series=args.series,
        overwrite=args.overwrite,
    )
    say(f"label volumes: {len(cases)} in {args.output}; prompts.json lists the objects and their slices")


def _refuse_with_prompts(args: argparse.Namespace, more: Sequence[str] = ()) -> None:
    others = ("dicom_seg", "ensemble", "uncertainty", "probabilities", "set", "part", *more)
    if given := [name for name in others if getattr(args, name)]:
        raise InputError(f"--{given[0].replace('_', '-')}: not with --prompts; leave one of them out")
    if args.labels != "card":
        raise InputError("--labels: not with --prompts, whose objects have numbers after the card's; leave it out")


def _segment_prompted(args: argparse.Namespace, path: Path, inputs: Sequence[Path]) -> None:
    from ragsam.api.segment_prompts import segment_prompted

    _refuse_with_prompts(args)
    cases = segment_prompted(
        path,
        inputs,
        args.prompts,
        args.output,
        section=args.section,
        bank=args.bank,
        retrieval=not args.no_retrieval,
        series=args.series,
        overwrite=args.overwrite,
        add_to_bank=args.add_to_bank,
    )
    say(f"label volumes: {len(cases)} in {args.output}; prompts.json lists the objects and their slices")
