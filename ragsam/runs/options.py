"""Knobs: the plain values at the top of a bundle's config, set without touching the wiring below.

One part of the wiring is open to them: what tunes the network, by names such as `network_def.lora.rank`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ragsam.errors import InputError

_NO_CODE = "expressions and mappings are not taken here; edit the bundle's config for that"
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_KNOB = re.compile(r"^(\w+): ?(.*?)(\s+#.*)?$")
TUNING = "network_def."
_NO_KNOBS = {"bundle_root", "dataset"}


def knob_names(text: str) -> set[str]:
    """Return the names of a config's knobs: top-level keys with a plain value on their own line, above the wiring.

    `bundle_root` is where a run lies, and `dataset` what its datalist names: neither is for a command to set.
    """
    above = text.split("\n# Wiring.", 1)[0]
    return {match[1] for line in above.splitlines() if (match := _KNOB.match(line)) and match[2]} - _NO_KNOBS


def set_knobs(text: str, values: Mapping[str, Any]) -> str:
    """Return a config's text with knobs set; comments and order are kept, and knobs that it lacks are passed over."""
    names = knob_names(text)
    lines = []
    for line in text.splitlines():
        match = _KNOB.match(line)
        if match and match[1] in values and match[1] in names:
            line = f"{match[1]}: {_as_yaml(values[match[1]])}{match[3] or ''}"
        lines.append(line)
    text = "\n".join(lines) + "\n"
    for name, value in values.items():
        if name.startswith(TUNING):
            text = _set_tuning(text, name.removeprefix(TUNING).split("."), value)
    return text


def tuning_names(text: str) -> set[str]:
    """Return the entries of a config's `network_def` that knobs reach: those not taken from a knob already."""
    network = (yaml.safe_load(text) or {}).get("network_def") or {}
    return {name for name, value in network.items() if value is None or isinstance(value, Mapping)}


def _set_tuning(text: str, path: Sequence[str], value: Any) -> str:
    """Return a config's text with an entry of `network_def` changed, written on one line."""
    entry = yaml.safe_load(text)["network_def"][path[0]]
    for name in reversed(path[1:]):
        value = {name: value}
    if isinstance(entry, Mapping) and isinstance(value, Mapping) and len(path) > 1:
        value = {**entry, **value}
    block = re.compile(rf"(^network_def:\n(?:[ ]+.*\n)*?)  {re.escape(path[0])}:.*\n(?:[ ]{{3,}}.*\n)*", re.MULTILINE)
    return block.sub(lambda match: f"{match[1]}  {path[0]}: {_as_yaml(value)}\n", text, count=1)


def _as_yaml(value: Any) -> str:
    """Return a value as YAML on one line. JSON does for texts only, since YAML takes its 1e-05 for one."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=math.inf).strip()[1:-1]


def checked_knobs(text: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for a config's knobs, each of the kind its default is.

    A default of null takes anything, and a knob whose comment says what null means takes null.

    Raises:
        InputError: an unknown knob, or a value of another kind.
    """
    names, defaults = knob_names(text), yaml.safe_load(text)
    tuning = {name for name in values if name.startswith(TUNING)}
    for name in sorted(tuning):
        if name.split(".")[1] not in tuning_names(text) or name.count(".") > 2:
            known = ", ".join(f"{TUNING}{entry}" for entry in sorted(tuning_names(text)))
            raise InputError(f"--set {name}: no such part of the network; the bundle has {known}, and options of these")
    if unknown := sorted(set(values) - names - tuning):
        raise InputError(f"--set {unknown[0]}: no such knob; the bundle has {', '.join(sorted(names))}")
    checked = dict(values)
    for name, value in values.items():
        kind = type(defaults.get(name))
        if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            value = checked[name] = _number(value)  # YAML takes 1 for whole, and 1e-3 for a text
        if value is None and name in _nullable(text):
            continue
        if kind in _KINDS and (type(value) is not kind or (kind is float and not math.isfinite(value))):
            raise InputError(f"--set {name}: {values[name]!r} is not {_KINDS[kind]}; the default is {defaults[name]}")
    return checked


def _nullable(text: str) -> set[str]:
    """Return the knobs whose comment says what null means."""
    return {match[1] for line in text.splitlines() if (match := _KNOB.match(line)) and "null" in (match[3] or "")}


def _number(value: int | str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def parse_knob(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, the value as YAML; a mapping only for a part of `network_def`.

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
    options = parsed.values() if name.startswith(TUNING) and _plain_mapping(parsed) else [parsed]
    if any(map(_may_run, options)):
        raise InputError(f"--set {name}: {_NO_CODE}")
    return name, parsed


def _plain_mapping(value: Any) -> bool:
    """Whether a value is a mapping of names that MONAI gives no meaning, such as `_target_` has."""
    return isinstance(value, Mapping) and all(re.fullmatch("[a-z][a-z_]*", str(name)) for name in value)


def _may_run(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().startswith(("$", "@", "%"))
    return isinstance(value, Mapping) or (isinstance(value, list) and any(map(_may_run, value)))
