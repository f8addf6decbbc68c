"""`ragsam cards`: the data sets that are known."""

from __future__ import annotations

import argparse
from pathlib import Path

from ragsam.commands.terminal import add_overwrite, say
from ragsam.errors import InputError

_NEW = "new"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("cards", help="the data sets that are known, one of them in full, or a new one")
    parser.add_argument("card", nargs="?", help="a card's name, a .yaml file of your own, or `new` to begin one")
    parser.add_argument("--from", type=Path, dest="labels", metavar="LABELS", help="new: a folder of label volumes")
    parser.add_argument("--images", type=Path, metavar="IMAGES", help="new: of their images, for modality and window")
    parser.add_argument("--modality", help="new: CT or MR (default: by the images)")
    parser.add_argument("--output", type=Path, metavar="CARD.yaml", help="new: the card to write")
    add_overwrite(parser)
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """List the cards, show one, or begin one."""
    if args.card == _NEW:
        _begin(args)
        return
    from ragsam.data.cards.listing import card_page, cards_table
    from ragsam.data.cards.load import list_cards, load_card

    if given := [name for name in ("labels", "images", "modality", "output") if getattr(args, name)]:
        raise InputError(f"--{given[0].replace('labels', 'from')}: only with `ragsam cards new`")
    if args.card is None:
        say(cards_table([load_card(name) for name in list_cards()]))
    else:
        say(card_page(load_card(args.card)))


def _begin(args: argparse.Namespace) -> None:
    if args.labels is None or args.output is None:
        raise InputError("cards new: needs --from LABELS and --output CARD.yaml")
    from ragsam.data.preparation.new_card import new_card

    values = new_card(args.labels, args.output, images=args.images, modality=args.modality, overwrite=args.overwrite)
    say(f"card: {args.output}, labels {', '.join(map(str, values))}")
    say(f"next: name the organs in {args.output}, then ragsam prepare {args.output} FOLDER --output LIST.json")
