"""`ragsam index`: labelled slices become a bank."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_options, add_part, chosen_options, say
from ragsam.errors import InputError
from ragsam.parts import Part


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("index", help="build the support bank of a run's training patients, or grow it")
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="left out: a bank to segment by without a run")
    parser.add_argument("--output", type=Path, metavar="BANK", help="default: the run's own bank/")
    parser.add_argument("--data", type=Path, metavar="DATALIST", help="without a RUN: make a bank of its cases")
    parser.add_argument("--add", type=Path, metavar="DATALIST", help="add its cases to the bank")
    parser.add_argument("--section", help="of the datalist (default: training)")
    add_options(parser, "with --data, as image_size=96")
    parser.add_argument("--remove", nargs="+", metavar="PATIENT", help="remove patients from the bank, by their keys")
    add_part(parser)
    parser.set_defaults(job=run, kept=kept)


def run(args: argparse.Namespace) -> None:
    """Build, grow or prune a bank."""
    if args.remove:
        _remove(args)
        return
    from ragsam.api.index import index_run

    if args.section and not (args.add or args.data):
        raise InputError("--section: of the datalist to add; name one with --add")
    if args.data and (args.run or args.add):
        raise InputError("--data: makes a bank without a RUN; to add cases to a bank, use --add")
    if args.set and not args.data:
        raise InputError("--set: only with --data; slices are prepared as the run or the bank has it")
    if args.run is None and not (args.data or args.add):
        raise InputError("index: no RUN; name one, or give the cases of a bank without a run by --data DATALIST")
    folder, slices, patients = index_run(
        args.run,
        _bank_folder(args),
        add=args.add,
        section=args.section or "training",
        data=args.data,
        options=chosen_options(args),
        part=args.part,
    )
    say(f"bank: {folder}, {slices} slices of {patients} patients")
    if args.part:
        say(f"next, once all parts are there: ragsam merge {_bank_folder(args)}")
    elif args.data:
        from ragsam.data.datalist import load_datalist

        say(f"next: ragsam segment --card {load_datalist(args.data).card} --bank {folder} INPUT --output DIR")


def kept(args: argparse.Namespace) -> str:
    """Return what an interrupted indexing keeps, and how to continue."""
    folder = _bank_folder(args)
    if args.part:
        folder = Part.of_text(args.part).folder(folder)
    draft = folder / "draft.jsonl"
    if not draft.is_file():
        return "an existing bank is complete; run the command again to be sure that it finished"
    finished = max(len(draft.read_text(encoding="utf-8").splitlines()) - 1, 0)
    return f"{finished} volumes are finished and kept; to continue after them, run the command again"


def _bank_folder(args: argparse.Namespace) -> Path:
    if args.run is None and args.output is None:
        raise InputError("--output: needed without a RUN; name the folder of the bank")
    return args.output or args.run.absolute() / "bank"


def _remove(args: argparse.Namespace) -> None:
    from ragsam.api.index import prune_bank

    if given := [name for name in ("add", "data", "set", "part") if getattr(args, name)]:
        raise InputError(f"--remove: not with --{given[0]}; do one after the other")
    folder = _bank_folder(args)
    manifest = prune_bank(args.run, folder, args.remove)
    say(f"bank: {folder}, {manifest['slices']} slices of {manifest['patients']} patients")
