"""`ragsam rank`: the most novel volumes first."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, complain, json_output, say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("rank", help="volumes without labels, those first that are most unlike the bank")
    parser.add_argument("run", type=Path)
    parser.add_argument("input", type=Path, nargs="+", help="as for segment")
    parser.add_argument("--section", default="test", help="of a datalist (default: test)")
    parser.add_argument("--bank", type=Path, help="default: the run's own bank/")
    parser.add_argument("--series", action="append", default=[], metavar="UID", help="of a DICOM folder with several")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores as JSON")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> int:
    """Rank volumes; return 2 where some cannot be read."""
    from ragsam.files import write_json_atomic
    from ragsam.inference.novelty_ranking import rank_volumes

    with json_output(args, reads=args.input):
        ranking, faults = rank_volumes(args.run, args.input, section=args.section, bank=args.bank, series=args.series)
        if args.json:
            write_json_atomic(args.json, {"volumes": ranking})
    for entry in ranking:
        place = f"farther than {entry['percentile']:.0f} % of the bank's volumes"
        say(f"{entry['case']}: {entry['score']:.3f}, {place}{', unlike them' if entry['flagged'] else ''}")
    for fault in faults:
        complain(fault)
    return 2 if faults else 0
