"""The command line: `ragsam COMMAND ...`. A command is its arguments and one call of the Python API."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ragsam import __version__
from ragsam.commands import (
    bases,
    cards,
    check,
    compare,
    demo,
    describe,
    doctor,
    evaluate,
    export,
    import_weights,
    index,
    merge,
    pack,
    prepare,
    rank,
    segment,
    serve,
    train,
    unpack,
    verify,
)
from ragsam.commands.terminal import complain
from ragsam.console.interrupts import TerminatedError, sigterm_interrupts
from ragsam.console.library_warnings import told_once
from ragsam.console.malloc import keep_freed_memory
from ragsam.errors import InputError

#: In the order of `ragsam --help`. They import what is heavy when they run, so that the help answers at once.
COMMANDS = (
    *(demo, cards, bases, prepare, check, train, index, rank, segment, evaluate, merge, compare),
    *(import_weights, export, describe, pack, unpack, doctor, verify, serve),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="ragsam", description="The command line of RAG-SAM.")
    parser.add_argument("--version", action="version", version=f"ragsam {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    for command in commands.choices.values():
        if command.get_default("kept") is None:
            command.set_defaults(kept=lambda args: "no file is left half-written; to continue, run the command again")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 bad input, 130 Ctrl-C, 143 SIGTERM (one line on stderr each).

    A bug shows its traceback.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and args.command == "segment" and not any(text.startswith("-") for text in rest):
        args.path += map(Path, rest)  # inputs behind an option: argparse takes a list in one piece
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("ragsam").setLevel(logging.INFO)
    keep_freed_memory()
    try:
        with sigterm_interrupts(), told_once():
            return args.job(args) or 0
    except InputError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt as interrupt:
        complain(f"interrupted; {args.kept(args)}", own_line=True)
        return 143 if isinstance(interrupt, TerminatedError) else 130


if __name__ == "__main__":
    raise SystemExit(main())
