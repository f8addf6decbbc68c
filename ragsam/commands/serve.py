"""`ragsam serve`: MONAI Label's server on a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("serve", help="MONAI Label's server on a copy of a run")
    parser.add_argument("run", type=Path)
    parser.add_argument("--studies", required=True, metavar="DIR", help="volumes; or the address of a DICOMweb server")
    parser.add_argument("--output", type=Path, metavar="DIR", help="of the app and the copy (default: RUN-monailabel)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but 127.0.0.1 needs MONAI Label's authentication"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name by which clients call it"
    )
    parser.add_argument("--no-retrieval", action="store_true")
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """Become MONAI Label's server."""
    from ragsam.api.serve import serve

    serve(
        args.run,
        args.studies,
        output=args.output,
        host=args.host,
        port=args.port,
        names=args.allow_host,
        retrieval=not args.no_retrieval,
    )
