"""Knobs: the plain values at the top of a bundle's config, set without touching the wiring below."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from ragsam.errors import InputError

_NO_CODE = "expressions and mappings are not taken here; edit the bundle's config for that"
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_KNOB = re.compile(r"^(\w+): ?(.*?)(\s+#.*)?$")


def knob_names(text: str) -> set[str]:
    """Return the names of a config's knobs: top-level keys with a plain value on their own line, above the wiring."""
    above = text.split("\n# Wiring.", 1)[0]
    return {match[1] for line in above.splitlines() if (match := _KNOB.match(line)) and match[2]} - {"bundle_root"}


def set_knobs(text: str, values: Mapping[str, Any]) -> str:
    """Return a config's text with knobs set; comments and order are kept, and knobs that it lacks are passed over."""
    names = knob_names(text)
    lines = []
    for line in text.splitlines():
        match = _KNOB.match(line)
        if match and match[1] in values and match[1] in names:
            line = f"{match[1]}: {_as_yaml(values[match[1]])}{match[3] or ''}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _as_yaml(value: Any) -> str:
    """Return a value as YAML on one line. JSON does for texts only, since YAML takes its 1e-05 for one."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=math.inf).strip()[1:-1]


def checked_knobs(text: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for a config's knobs, each of the kind its default is; a default of null takes anything.

    Raises:
        InputError: an unknown knob, or a value of another kind.
    """
    names, defaults = knob_names(text), yaml.safe_load(text)
    if unknown := sorted(set(values) - names):
        raise InputError(f"--set {unknown[0]}: no such knob; the bundle has {', '.join(sorted(names))}")
    checked = dict(values)
    for name, value in values.items():
        kind = type(defaults[name])
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            value = checked[name] = _number(value)  # YAML takes 1 for whole, and 1e-3 for a text
        if kind in _KINDS and (type(value) is not kind or (kind is float and not math.isfinite(value))):
            raise InputError(f"--set {name}: {values[name]!r} is not {_KINDS[kind]}; the default is {defaults[name]}")
    return checked


def _number(value: int | str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def parse_knob(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, the value as YAML.

    Raises:
        InputError: no `=`, no YAML, or something that would run code: an expression (`$...`, `@...`) or a mapping.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set {text}: write it as KEY=VALUE")
    if value.strip().startswith(("@", "%")):  # no YAML either
        raise InputError(f"--set {name}: {_NO_CODE}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {name}: {value!r} is not valid YAML; quote it") from error
    if _may_run(parsed):
        raise InputError(f"--set {name}: {_NO_CODE}")
    return name, parsed


def _may_run(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().startswith(("$", "@", "%"))
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(_may_run, value)))
