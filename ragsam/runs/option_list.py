"""The options as text: a table for a terminal, one of them in full, and the reference page."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from itertools import groupby
from types import NoneType
from typing import Any, get_args

from ragsam.errors import InputError
from ragsam.runs.options import OPTIONS, Option
from ragsam.runs.settings import as_yaml, nearest, read_options

_PAGE = """# Options

<!-- Written by `make bundles` from ragsam/runs/options.py; change it there. -->

What stands at the top of a bundle's configs. `ragsam train BUNDLE --set NAME=VALUE` sets one for a run, in each of its
configs; `python -m monai.bundle run ... --NAME VALUE` for one call. `ragsam train --options` lists those of training,
`--options NAME` tells one in full. The bundles differ from these defaults in what tunes the network alone.
"""


def packaged_lines(name: str | None = None) -> list[str]:
    """Return the options of the packaged bundles' training as lines for a terminal, or one of them in full.

    Raises:
        InputError: no such option.
    """
    train = resources.files("ragsam.bundles") / "sam_lora" / "configs" / "train.yaml"
    defaults = read_options(train.read_text(encoding="utf-8"))
    return option_lines(defaults) if name is None else option_page(name, defaults)


def option_lines(defaults: Mapping[str, Any]) -> list[str]:
    """Return options as lines for a terminal, by group: name, type, default, and what it is.

    Args:
        defaults: of the options to list, by name; others than the package's are left out.
    """
    listed = [option for name, option in OPTIONS.items() if name in defaults]
    rows = {option.name: (option.name, kinds_text(option), as_yaml(defaults[option.name])) for option in listed}
    widths = [max(map(len, column)) for column in zip(*rows.values(), strict=True)]
    widths[2] = min(widths[2], 24)
    lines = []
    for group, options in groupby(listed, lambda option: option.group):
        lines += ["", group]
        for option in options:
            cells = [cell.ljust(width) for cell, width in zip(rows[option.name], widths, strict=True)]
            lines.append(f"  {'  '.join(cells)}  {option.line}")
    return lines[1:]


def option_page(name: str, defaults: Mapping[str, Any]) -> list[str]:
    """Return all that there is to say of an option, as lines for a terminal.

    Raises:
        InputError: no such option.
    """
    if name not in defaults or name not in OPTIONS:
        raise InputError(f"--options {name}: no such option{nearest(name, defaults)}")
    option = OPTIONS[name]
    lines = [
        f"{name}: {option.line}",
        f"type: {kinds_text(option)}",
        f"default: {as_yaml(defaults[name])}",
        f"group: {option.group}",
    ]
    lines += [f"goes to: {', '.join(option.feeds)}"] if option.feeds else []
    return lines + ([option.text] if option.text else [])


def reference_page() -> str:
    """Return docs/options.md."""
    lines = [_PAGE]
    for group, options in groupby(OPTIONS.values(), lambda option: option.group):
        lines += [f"## {group}", "", "| option | type | default | what |", "|---|---|---|---|"]
        lines += map(_row, options)
        lines.append("")
    return "\n".join(lines)


def _row(option: Option) -> str:
    what = f"{option.line}. {option.text}" if option.text else option.line
    cells = (f"`{option.name}`", kinds_text(option), f"`{as_yaml(option.default)}`", what)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def kinds_text(option: Option) -> str:
    """Return an option's types as text: `int`, `list[float] or null`."""
    return " or ".join(map(_kind_text, option.kinds))


def _kind_text(kind: Any) -> str:
    if kind is NoneType:
        return "null"
    return str(kind) if get_args(kind) else kind.__name__
