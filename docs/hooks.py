"""What the manual takes from the package while it is built: the pages of commands and cards, and its docstrings."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from ragsam.cli import build_parser
from ragsam.data.cards.listing import card_page
from ragsam.data.cards.load import list_cards, load_card

ROOT = Path(__file__).parent.parent


def on_startup(command: str, dirty: bool) -> None:
    """Lay the package out as it is installed: mkdocstrings reads files and knows nothing of `package_dir`.

    At the start: mkdocstrings drops search paths that do not exist when the configuration is read.
    """
    package = ROOT / "build" / "docs-source" / "ragsam"
    shutil.rmtree(package, ignore_errors=True)
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "ragsam", package, ignore=unwanted)
    for name in ("data", "transforms", "bundles"):
        shutil.copytree(ROOT / name, package / name, ignore=unwanted)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"reference/commands.md": commands_page(), "reference/packaged-cards.md": cards_page()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def commands_page() -> str:
    """Return every command with its arguments, from the parser itself."""
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    lines = ["# Commands", "", "Made from the parser of `ragsam`; `ragsam COMMAND --help` prints the same.", ""]
    lines += ["Exit codes: 0 done; 2 bad input, with one line on stderr that says what to do; 130 Ctrl-C; 1 a bug."]
    helps = {action.dest: action.help for action in commands._choices_actions}
    for name, parser in commands.choices.items():
        lines += ["", f"## ragsam {name}", "", f"{helps[name].capitalize()}.", "", *_usage(parser), "", *_table(parser)]
    return "\n".join(lines) + "\n"


def _usage(parser: argparse.ArgumentParser) -> list[str]:
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    return ["```text", usage, "```"]


def _table(parser: argparse.ArgumentParser) -> list[str]:
    rows = ["| argument | what |", "|---|---|"]
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            names = " ".join(action.option_strings) or str(action.metavar or action.dest)
            rows.append(f"| `{names}` | {action.help or ''} |")
    return rows


def cards_page() -> str:
    """Return the packaged cards in full, as `ragsam cards NAME` prints them."""
    lines = ["# Packaged cards", "", "As `ragsam cards NAME` prints them. How to write one: [Cards](cards.md)."]
    for name in list_cards():
        lines += ["", f"## {name}", "", "```text", card_page(load_card(name)), "```"]
    return "\n".join(lines) + "\n"
