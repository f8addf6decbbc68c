"""`ragsam train`: a bundle becomes a trained run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ragsam.commands.terminal import add_options, chosen_options, say
from ragsam.errors import InputError
from ragsam.runs.recipes import recipe_names


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("train", help="train a bundle; the run is a bundle itself")
    recipes = ", ".join(recipe_names())
    parser.add_argument("bundle", help="a bundle's folder, or the name of a packaged one (sam_lora)")
    parser.add_argument(
        "--options", action=_ListOptions, nargs="?", metavar="NAME", help="list the options of --set, or explain one"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DATALIST")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN")
    add_options(parser, "set an option; --options lists them")
    parser.add_argument(
        "--recipe", metavar="NAME", help=f"{recipes}: options that belong together; --set takes precedence"
    )
    parser.add_argument("--resume", action="store_true", help="resume RUN after its last epoch, or start it")
    parser.add_argument("--check", action="store_true", help="try it: a few batches, and what the whole will take")
    parser.add_argument("--fit-batch", action="store_true", help="find the largest batch_size that the memory holds")
    parser.add_argument("--folds", type=int, metavar="N", help="cross-validate: N runs in RUN, evaluated as one")
    parser.add_argument(
        "--unlabelled", nargs="+", metavar="VOLUMES", help="learn from volumes without labels too, in rounds"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="with --unlabelled: at most N rounds (3)")
    parser.set_defaults(job=run, kept=kept)


class _ListOptions(argparse.Action):
    """Lists the options and ends, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Write the list, or one option in full; an unknown name is bad input."""
        from ragsam.runs.option_list import packaged_lines

        try:
            lines = packaged_lines(values)
        except InputError as error:
            parser.exit(2, f"ragsam: {error}\n")
        for line in lines:
            say(line)
        parser.exit()


def run(args: argparse.Namespace) -> None:
    """Train, or try a training, or cross-validate."""
    from ragsam.api.train import train_run
    from ragsam.report.training import CURVES_NAME, read_log, training_table
    from ragsam.runs.recipes import recipe

    if args.unlabelled and args.folds is not None:
        raise InputError("--unlabelled: not with --folds; train one run with it")
    if args.rounds is not None and not args.unlabelled:
        raise InputError("--rounds: only with --unlabelled, which names the volumes to learn from")
    options = (recipe(args.recipe) if args.recipe else {}) | chosen_options(args)
    if args.fit_batch:
        options["batch_size"] = _fitting_batch(args, options)
    if args.check:
        _try(args, options)
        return
    if args.folds is not None:
        _train_folds(args, options)
        return
    if args.unlabelled:
        _train_rounds(args, options)
        return
    folder = train_run(args.bundle, args.data, args.output, options, resume=args.resume)
    for line in training_table(read_log(folder / "log.csv")):
        say(line)
    say(f"run: {folder}")
    say(f"curves: {folder / CURVES_NAME}")
    say(f"next: ragsam index {folder}")


def kept(args: argparse.Namespace) -> str:
    """Return what an interrupted training keeps, and how to continue."""
    parts = "fold" if args.folds is not None else "round"
    if (args.folds is not None or args.unlabelled) and args.output.is_dir():
        return f"{args.output} keeps the epochs finished of each {parts}; to continue, add --resume to the command"
    if args.check or not (args.output / "checkpoints" / "last.pt").is_file():
        return "no epoch was finished, nothing is kept; to continue, run the command again"
    return f"{args.output} keeps the epochs finished; to continue after them, add --resume to the command"


def _fitting_batch(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from ragsam.api.fit_batch import largest_batch

    if args.resume:
        raise InputError("--fit-batch: not with --resume; a resumed training keeps its batch_size")
    size = largest_batch(args.bundle, args.data, args.output, options)
    say(f"batch_size: {size}, the largest power of two that the memory holds")
    return size


def _try(args: argparse.Namespace, options: dict[str, Any]) -> None:
    from ragsam.api.try_training import estimate_lines, try_training

    if args.resume or args.folds is not None:
        raise InputError("--check: not with --resume or --folds; try a training that has not started")
    estimate = try_training(args.bundle, args.data, args.output, options)
    for line in estimate_lines(estimate):
        say(line)
    if args.unlabelled:
        from ragsam.api.train_rounds import ROUNDS, rounds_lines

        for line in rounds_lines(estimate, args.data, args.unlabelled, args.rounds or ROUNDS):
            say(line)


def _train_rounds(args: argparse.Namespace, options: dict[str, Any]) -> None:
    from ragsam.api.train_rounds import RECORD_NAME, ROUNDS, rounds_table, train_rounds

    rounds = ROUNDS if args.rounds is None else args.rounds
    unlabelled = args.unlabelled
    best = train_rounds(args.bundle, args.data, args.output, unlabelled, options, rounds=rounds, resume=args.resume)
    for line in rounds_table(args.output / RECORD_NAME):
        say(line)
    say(f"run: {best}, the best of them by validation")
    say(f"next: ragsam index {best}")


def _train_folds(args: argparse.Namespace, options: dict[str, Any]) -> None:
    from ragsam.api.cross_validate import cross_validate

    metrics = cross_validate(args.bundle, args.data, args.output, options, folds=args.folds, resume=args.resume)
    dice = metrics["summary"]["mean"]["dice"]
    if dice["mean"] is not None:
        say(f"mean Dice {dice['mean']:.4f} (n = {dice['n']} patients, each by the run that never saw them)")
    say(f"report: {args.output / 'evaluation' / 'report.html'}")
    others = " ".join(str(args.output / f"fold-{fold}") for fold in range(1, args.folds))
    say(f"next: ragsam segment {args.output / 'fold-0'} INPUT --output DIR --ensemble {others}")
