"""`ragsam prepare`: a data set's official layout becomes a datalist."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ragsam.commands.terminal import add_overwrite, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("prepare", help="official raw layout to a datalist; copies no voxel")
    parser.add_argument("card", help="the data set's card: a name, or a .yaml file of your own")
    parser.add_argument("source", type=Path, help="folder of the raw data")
    parser.add_argument("--output", type=Path, required=True, metavar="DATALIST.json")
    parser.add_argument("--layout", help="btcv, flare22, decathlon, nnunet, manifest or plain (default: found out)")
    parser.add_argument("--patients", type=Path, metavar="CSV", help="table of case and patient")
    parser.add_argument("--series", action="append", default=[], metavar="UID", help="series of a DICOM folder")
    parser.add_argument("--validation", type=int, metavar="N", help="patients for validation (default: the card's)")
    parser.add_argument("--test", type=int, metavar="N", help="patients for testing (default: the card's)")
    parser.add_argument("--folds", type=int, metavar="N", help="deal all but the test patients to folds")
    parser.add_argument("--fold", type=int, default=0, metavar="I", help="the fold for validation, from 0")
    parser.add_argument("--seed", type=int, default=0, help="of the split or the folds")
    parser.add_argument("--labels", help="card or raw: whose numbers the label files have, if the files do not say")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Write the datalist."""
    from ragsam.data.datalist import load_datalist
    from ragsam.data.preparation.prepare import prepare

    path = prepare(
        args.card,
        args.source,
        args.output,
        layout=args.layout,
        seed=args.seed,
        validation=args.validation,
        test=args.test,
        folds=args.folds,
        fold=args.fold,
        subjects=args.patients,
        series=args.series,
        labels=args.labels,
        overwrite=args.overwrite,
    )
    sections = load_datalist(path).sections
    for name, cases in sections.items():
        say(f"{name}: {len(cases)} volumes of {len({case.patient for case in cases})} patients")
    say(f"next: {_next(path, sections)}")


def _next(path: Path, sections: Mapping[str, Sequence[Any]]) -> str:
    """Return what can be done with a datalist of these sections."""
    if sections["training"] and sections["validation"]:
        return f"ragsam train sam_lora --data {path} --output RUN"
    if sections["training"]:
        return f"ragsam index --data {path} --output BANK; a training needs validation patients too"
    return f"ragsam segment RUN {path} --output DIR with a run that was trained on other patients"
