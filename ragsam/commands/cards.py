"""`ragsam cards`: the data sets that are known."""

from __future__ import annotations

import argparse

from ragsam.commands.terminal import say


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = commands.add_parser("cards", help="the data sets that are known, or one of them in full")
    parser.add_argument("card", nargs="?", help="a card's name, or a .yaml file of your own")
    parser.set_defaults(job=run)


def run(args: argparse.Namespace) -> None:
    """List the cards, or show one."""
    from ragsam.data.cards.listing import card_page, cards_table
    from ragsam.data.cards.load import list_cards, load_card

    if args.card is None:
        say(cards_table([load_card(name) for name in list_cards()]))
    else:
        say(card_page(load_card(args.card)))
