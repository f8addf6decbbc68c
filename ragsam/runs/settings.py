"""Options set: what `--set` takes, checked by the options' types, and put into the texts of configs."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, get_args, get_origin

import yaml

from ragsam.errors import InputError
from ragsam.io.documents import LOADER, needed, parse_yaml, schema_faults
from ragsam.runs.options import OPTIONS, TYPES

#: Below this line of a config stands its wiring, above it the options.
WIRING = "\n# Wiring.\n"
#: Options that are mappings; and those of them that say what tunes the network.
MAPPINGS = tuple(name for name, option in OPTIONS.items() if dict in option.kinds)
TUNING = tuple(name for name in MAPPINGS if "Segmenter" in OPTIONS[name].feeds)
_NO_CODE = "expressions and mappings are not taken here; edit the bundle's config for that"
#: What tunes a network was set by this name before it was an option of its own; it still may be.
_NETWORK = "network_def."
#: What a command does not set: where a run lies, and what its datalist names.
_NOT_SET = ("imports", "bundle_root", "dataset")


#: What an option takes that only a config of your own has: values of its type; of another than these, anything.
_SAME = (bool, int, float, str)


def parse_option(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, the value as YAML; a mapping only for an option that is one.

    Raises:
        InputError: no `=`, no YAML, or something that would run code: an expression (`$...`, `@...`) or a mapping.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set {text}: write it as KEY=VALUE")
    if value.strip().startswith(("@", "%")):  # no YAML either
        raise InputError(f"--set {name}: {_NO_CODE}")
    try:
        parsed = parse_yaml(value, "")
    except InputError as error:
        if isinstance(error.__cause__, yaml.YAMLError):
            raise InputError(f"--set {name}: {value[:60]!r} is not valid YAML; quote it") from error
        reason = str(error).lstrip(": ").partition(";")[0]
        raise InputError(f"--set {name}: {value[:60]!r} is not taken ({reason})") from error
    takes_mapping = name.removeprefix(_NETWORK) in TUNING
    if _may_run(parsed, mapping=takes_mapping):
        raise InputError(f"--set {name}: {_NO_CODE}")
    return name, parsed


def _may_run(value: Any, *, mapping: bool = False) -> bool:
    """Whether MONAI might run code for a value: for an expression, or a mapping, if not of plain names."""
    if isinstance(value, list):
        return any(map(_may_run, value))
    if isinstance(value, dict):
        plain = all(re.fullmatch("[a-z][a-z_]*", str(name)) for name in value)
        return not (mapping and plain) or any(map(_may_run, value.values()))
    return is_made_by_monai(str(value).strip())


def is_made_by_monai(value: Any) -> bool:
    """Whether a value of a config is an expression, a reference or a macro, which MONAI makes something of."""
    return str(value).startswith(("$", "@", "%"))


def read_options(text: str) -> dict[str, Any]:
    """Return the options of a config with their values: what stands above its wiring, read as data.

    In a config of before, what tunes the network stood in `network_def` alone.
    """
    content = yaml.load(text, LOADER) or {}
    above = yaml.load(text.split(WIRING, 1)[0], LOADER) or {}
    network = content.get("network_def")
    network = network if isinstance(network, Mapping) else {}
    tuning = {name: network[name] for name in TUNING if name in network}
    options = {}
    for name, value in {**tuning, **above}.items():
        is_part = isinstance(value, Mapping) and name not in MAPPINGS
        if name not in _NOT_SET and not is_part:
            options[name] = value
    return options


def checked_options(text: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for a config's options by their names, each converted to its option's type.

    An entry of a mapping is named by a dot, as `lora.rank`. An option that only this config has is of the type of its
    value; where that is null it takes anything.

    Raises:
        InputError: an unknown option, or a value of another type.
    """
    known = read_options(text)
    entered = {name for name in known if name in TUNING}
    checked = {}
    for given, value in values.items():
        name = given.removeprefix(_NETWORK)
        option, dot, entry = name.partition(".")
        places = entered if dot else known
        if option not in places or "." in entry:
            raise InputError(f"--set {given}: no such option{nearest(name, known)}")
        checked[name] = _entry(given, value) if dot else _converted(given, value, known[name])
    return checked


def _entry(given: str, value: Any) -> Any:
    """Return the value of one entry of a mapping, in its range."""
    option, _, entry = given.removeprefix(_NETWORK).partition(".")
    entries = OPTIONS[option].schema["properties"]
    if entry not in entries:
        raise InputError(f"--set {given}: no such entry; known are {', '.join(entries)}")
    if any(schema_faults(value, entries[entry])):
        raise InputError(f"--set {given}: {value!r} is not {needed(entries[entry])}")
    return value


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """Return what to tell of a name that is no option: the one that is most like it, and where all are listed."""
    meant = ";"
    for found in difflib.get_close_matches(name, known, n=1):
        meant = f"; did you mean {found}?"
    return f"{meant} `ragsam train --options` lists them"


def _converted(given: str, value: Any, default: Any) -> Any:
    """Return a value as the first of its option's types that it fits, in its range."""
    name = given.removeprefix(_NETWORK)
    if name in OPTIONS:
        kinds, schema = OPTIONS[name].kinds, OPTIONS[name].schema
    elif type(default) in _SAME:
        kinds, schema = (type(default),), {"type": TYPES[type(default)]}
    else:
        return value
    for kind in kinds:
        with suppress(TypeError, ValueError, OverflowError):
            found = _as(kind, value)
            if not any(schema_faults(found, schema)):
                return found
    for place, reason in schema_faults(value, schema) if isinstance(value, dict) else ():
        raise InputError(f"--set {given}: {place}{': ' if place else ''}{reason}")
    raise InputError(f"--set {given}: {value!r} is not {needed(schema)}; the default is {as_yaml(default)}")


def _as(kind: Any, value: Any) -> Any:
    """Return a value as a type, or raise a TypeError, ValueError or OverflowError."""
    if kind is float:
        number = float(value)  # YAML takes 1 for whole, and 1e-3 for a text
        if isinstance(value, bool) or not math.isfinite(number):
            raise TypeError
        return number
    items = get_args(kind)
    if isinstance(value, tuple):
        value = list(value)
    if type(value) is not (get_origin(kind) or kind):
        raise TypeError
    return [_as(items[0], item) for item in value] if items else value


def check_config(content: Any, where: str) -> None:
    """Refuse a config whose options have values of another type or out of their range.

    Expressions and parts are left to MONAI.

    Raises:
        InputError: names the first such option.
    """
    if not isinstance(content, dict):
        raise InputError(f"{where}: not a mapping of options and parts; take it from a bundle of this package")
    for name, value in content.items():
        is_part = isinstance(value, dict) and "_target_" in value
        if name not in OPTIONS or is_part or is_made_by_monai(value):
            continue
        for place, reason in schema_faults(value, OPTIONS[name].schema):
            raise InputError(f"{where}: {name}{place}: {reason}; see `ragsam train --options {name}`")
        if name == "untrained":
            check_config(value, f"{where}: {name}")


def set_options(text: str, values: Mapping[str, Any]) -> str:
    """Return a config's text with options set; all else stays as it is, and options that it lacks are passed over."""
    options = read_options(text)
    whole: dict[str, Any] = {}
    for given, value in values.items():
        name, _, entry = given.removeprefix(_NETWORK).partition(".")
        if name not in options:
            continue
        if entry:
            before = whole.get(name, options[name]) or {}
            value = {**before, entry: value}
        whole[name] = value
    spans = _spans(text)
    for name in sorted(whole, key=spans.get, reverse=True):  # the last first: those before it stay where they are
        start, end = spans[name]
        text = f"{text[:start]}: {as_yaml(whole[name])}{text[end:]}"
    return text


def _spans(text: str) -> dict[str, tuple[int, int]]:
    """Return where the values of a config's entries stand, by name: from behind the name to the value's end."""
    top = yaml.compose(text, LOADER)
    spans = {}
    for key, value in top.value:
        if key.value == "network_def" and isinstance(value, yaml.MappingNode):
            spans = {inner.value: (inner.end_mark.index, _end(node)) for inner, node in value.value} | spans
        spans[key.value] = (key.end_mark.index, _end(value))
    return spans


def _end(node: yaml.Node) -> int:
    """Return where a value ends; the mark of one over several lines lies behind the comments that follow."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1]
        if isinstance(node, tuple):
            node = node[1]
    return node.end_mark.index


def as_yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    if "\n" in str(value):
        return json.dumps(value, ensure_ascii=False)
    listed = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return listed.strip()[1:-1]
