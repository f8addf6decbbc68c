"""Options set: what `--set` takes, checked by the options' types, and put into the texts of configs."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

import yaml

from ragsam.errors import InputError
from ragsam.runs.options import OPTIONS

#: Below this line of a config stands its wiring, above it the options.
WIRING = "\n# Wiring.\n"
_NO_CODE = "expressions and mappings are not taken here; edit the bundle's config for that"
#: What tunes a network was set by this name before it was an option of its own; it still may be.
_NETWORK = "network_def."
#: Options that are mappings; and those of them that say what tunes the network.
MAPPINGS = tuple(name for name, option in OPTIONS.items() if dict in option.kinds)
TUNING = tuple(name for name in MAPPINGS if "Segmenter" in OPTIONS[name].feeds)
#: What a command does not set: where a run lies, and what its datalist names.
_NOT_SET = ("imports", "bundle_root", "dataset")


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
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {name}: {value!r} is not valid YAML; quote it") from error
    entries = [parsed]
    if isinstance(parsed, dict) and name.removeprefix(_NETWORK) in TUNING:
        _require_plain_names(name, parsed)
        entries = list(parsed.values())
    if any(map(_may_run, entries)):
        raise InputError(f"--set {name}: {_NO_CODE}")
    return name, parsed


def _require_plain_names(name: str, value: Mapping[str, Any]) -> None:
    """Refuse names that MONAI gives a meaning, such as `_target_`."""
    if not all(re.fullmatch("[a-z][a-z_]*", str(entry)) for entry in value):
        raise InputError(f"--set {name}: {_NO_CODE}")


def _may_run(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_may_run, value))
    return isinstance(value, Mapping) or str(value).strip().startswith(("$", "@", "%"))


def read_options(text: str) -> dict[str, Any]:
    """Return the options of a config with their values: what stands above its wiring, read as data.

    In a config of before, what tunes the network stood in `network_def` alone.
    """
    content = yaml.safe_load(text) or {}
    above = yaml.safe_load(text.split(WIRING, 1)[0]) or {}
    network = content.get("network_def") or {}
    tuning = {name: network[name] for name in TUNING if name in network and name not in above}
    options = {}
    for name, value in {**above, **tuning}.items():
        if name in MAPPINGS or not (name in _NOT_SET or isinstance(value, Mapping)):
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
    checked = {}
    for given, value in values.items():
        name = given.removeprefix(_NETWORK)
        option, dot, entry = name.partition(".")
        takes = _kinds_of(option, known)
        if option not in known or "." in entry or (dot and option not in TUNING):
            raise InputError(f"--set {given}: no such option{nearest(name, known)}")
        if not dot and takes:
            value = _converted(given, value, takes, known[option])
        checked[name] = value
    return checked


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """Return what to tell of a name that is no option: the one that is most like it, and where all are listed."""
    found = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {found[0]}?" if found else ";"
    return f"{meant} `ragsam train --options` lists them"


def _kinds_of(name: str, known: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the types that an option takes; none where it takes anything."""
    if name in OPTIONS:
        return OPTIONS[name].kinds
    kind = type(known.get(name))
    return (kind,) if kind in (bool, int, float, str) else ()


def _converted(name: str, value: Any, kinds: tuple[Any, ...], default: Any) -> Any:
    for kind in kinds:
        try:
            return _CONVERTERS[kind](value)
        except (TypeError, ValueError):
            continue
    wanted = " or ".join(_WORDS[kind] for kind in kinds)
    raise InputError(f"--set {name}: {value!r} is not {wanted}; the default is {default}")


def _exactly(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError
        return value

    return convert


def _number(value: Any) -> float:
    """Return a number; YAML takes 1 for whole, and 1e-3 for a text."""
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _list_of(convert: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    return lambda values: list(map(convert, _exactly(list)(values)))


_CONVERTERS: dict[Any, Callable[[Any], Any]] = {
    bool: _exactly(bool),
    int: _exactly(int),
    float: _number,
    str: _exactly(str),
    dict: _exactly(dict),
    NoneType: _exactly(NoneType),
    list[float]: _list_of(_number),
    list[str]: _list_of(_exactly(str)),
}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "a mapping",
    NoneType: "null",
    list[float]: "a list of numbers",
    list[str]: "a list of texts",
}


def set_options(text: str, values: Mapping[str, Any]) -> str:
    """Return a config's text with options set; all else stays as it is, and options that it lacks are passed over."""
    options = read_options(text)
    whole: dict[str, Any] = {}
    for given, value in values.items():
        name, _, entry = given.removeprefix(_NETWORK).partition(".")
        if name not in options:
            continue
        if entry:
            value = {**(whole.get(name, options[name]) or {}), entry: value}
        whole[name] = value
    if not whole:
        return text
    spans = _spans(text)
    for name in sorted(whole, key=lambda name: spans[name], reverse=True):
        start, end = spans[name]
        text = f"{text[:start]}: {as_yaml(whole[name])}{text[end:]}"
    return text


def _spans(text: str) -> dict[str, tuple[int, int]]:
    """Return where the values of a config's entries stand, by name: from behind the name to the value's end."""
    top = yaml.compose(text, yaml.SafeLoader)
    entries = list(top.value)
    for key, value in top.value:
        if key.value == "network_def" and isinstance(value, yaml.MappingNode):
            entries = [*value.value, *entries]
    return {key.value: (key.end_mark.index, _end(value)) for key, value in entries}


def _end(node: yaml.Node) -> int:
    """Return where a value ends; the mark of one over several lines lies behind the comments that follow."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return node.end_mark.index


def as_yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    return yaml.safe_dump(
        [value], default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    ).strip()[1:-1]
