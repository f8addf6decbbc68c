"""The options as text: a table for a terminal, one of them in full, and the reference page."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from ragsam.errors import InputError
from ragsam.runs.options import BUNDLES, OPTIONS, Option, by_group
from ragsam.runs.settings import as_yaml, nearest, read_options

_DEFAULT_WIDTH = 24
_NAMES = {NoneType: "null", **{kind: kind.__name__ for kind in (bool, int, float, str, dict)}}
_PAGE = """# Options

<!-- Written by `make bundles` from ragsam/runs/options.py; change it there. -->

The options at the top of a bundle's configs. `ragsam train BUNDLE --set NAME=VALUE` sets one in every config of a run;
`python -m monai.bundle run ... --NAME VALUE` sets it for one call. `ragsam train --options` lists those of training,
`--options NAME` explains one. The bundles differ from these defaults only in what tunes the network.
"""


def packaged_lines(name: str | None = None) -> list[str]:
    """Return the options of the packaged bundles' training as lines for a terminal, or one of them in full.

    Raises:
        InputError: no such option.
    """
    train = BUNDLES / "sam_lora" / "configs" / "train.yaml"
    defaults = read_options(train.read_text(encoding="utf-8"))
    if name is not None:
        return option_page(name, defaults)
    return option_lines(defaults)


def option_lines(defaults: Mapping[str, Any]) -> list[str]:
    """Return options as lines for a terminal, by group: name, type, default, and what it is.

    Args:
        defaults: of the options to list, by name; others than the package's are left out.
    """
    listed = [option for name, option in OPTIONS.items() if name in defaults]
    name_width = max(len(option.name) for option in listed)
    kind_width = max(len(_kinds_text(option)) for option in listed)
    lines: list[str] = []
    for group, options in by_group(listed):
        lines += ["", group]
        for option in options:
            name = option.name.ljust(name_width)
            kind = _kinds_text(option).ljust(kind_width)
            default = as_yaml(defaults[option.name]).ljust(_DEFAULT_WIDTH)
            lines.append(f"  {name}  {kind}  {default}  {option.line}")
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
        f"type: {_kinds_text(option)}",
        f"default: {as_yaml(defaults[name])}",
        f"group: {option.group}",
        f"used by:  {', '.join(option.feeds)}",
        option.text,
    ]
    return [line for line in lines if line not in ("", "used by:  ")]


def reference_page() -> str:
    """Return docs/reference/options.md."""
    lines = [_PAGE.rstrip()]
    for group, options in by_group(OPTIONS.values()):
        lines += ["", f"## {group}", "", "| option | type | default | what |", "|---|---|---|---|"]
        for option in options:
            what = ". ".join(filter(None, [option.line, option.text]))
            kind = _kinds_text(option)
            lines.append(f"| `{option.name}` | {kind} | `{as_yaml(option.default)}` | {what} |")
    return "\n".join(lines) + "\n"


def _kinds_text(option: Option) -> str:
    """Return an option's types as text: `int`, `list[float] or null`."""
    names = [_NAMES.get(kind, str(kind)) for kind in option.kinds]
    return " or ".join(names)
