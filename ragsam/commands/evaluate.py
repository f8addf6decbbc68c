"""`ragsam evaluate`: label volumes are measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, add_part, complain, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("evaluate", help="metrics.json, metrics.csv and report.html")
    parser.add_argument("--reference", type=Path, required=True, help="folder of label volumes, or a datalist")
    parser.add_argument("--prediction", type=Path, required=True, metavar="DIR")
    parser.add_argument("--image", type=Path, metavar="DIR", help="images of a folder of references, for the pictures")
    parser.add_argument("--card", help="needed if the reference is a folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--section", default="test", help="of a datalist (default: test)")
    parser.add_argument(
        "--protocol",
        default="clinical",
        help="clinical (default), btcv, flare22-2022, flare22-2024, flare22-fixed or samed",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument("--bank", type=Path, help="the bank searched, to show the neighbours' pictures")
    parser.add_argument("--baseline", type=Path, metavar="METRICS.json", help="metrics.json of a run to compare with")
    parser.add_argument(
        "--viewer", nargs="*", metavar="CASE", help="3D view of these cases, or of so many of the worst (default: 3)"
    )
    parser.add_argument("--labels", help="card or raw: whose numbers the predictions have, if the files do not say")
    parser.add_argument("--reference-labels", help="the same of a folder of references")
    add_part(parser)
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate; return 2 where cases could not be measured."""
    from ragsam.api.evaluate import evaluate
    from ragsam.inference.evaluation import evaluation_lines

    metrics = evaluate(
        args.reference,
        args.prediction,
        args.output,
        card=args.card,
        image=args.image,
        section=args.section,
        protocol=args.protocol,
        jobs=args.jobs,
        bank=args.bank,
        baseline=args.baseline,
        viewer=args.viewer,
        labels=args.labels,
        reference_labels=args.reference_labels,
        part=args.part,
        overwrite=args.overwrite,
    )
    if args.part:
        say(f"scores: {metrics['n_cases']} cases; next, once all parts are there: ragsam merge {args.output}")
        return 0
    for name in metrics["unmatched"]:
        complain(f"warning: {name}: a prediction without a reference; it is not evaluated")
    for line in metrics["warnings"]:
        complain(f"warning: {line}")
    for line in evaluation_lines(metrics, args.output):
        say(line)
    for fault in metrics["faults"]:
        complain(fault)
    return 2 if metrics["faults"] else 0
