"""JSON and YAML that is read back: plain data, bounded in size and depth, held to a schema if there is one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from ragsam.errors import InputError
from ragsam.files import read_bytes

_DEEPEST = 50
_LARGEST_JSON, _LARGEST_YAML = 1 << 28, 1 << 20
_LARGEST_NUMBER = 2**63
_SHOWN = 60
_WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "string": "a text",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_PLURALS = {"number": "numbers", "integer": "whole numbers", "string": "texts"}
#: Plain data alone; libyaml's is ten times as quick, where it is there.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


def read_json(path: str | os.PathLike[str], schema: Mapping[str, Any] | None = None) -> Any:
    """Read a JSON file.

    Args:
        schema: by JSON Schema, what it must be; None takes any plain data.

    Raises:
        InputError: a file that is missing, unreadable, not JSON or no plain data (see `parse_yaml`), or a field that
            breaks the schema, named by its place in the file.
    """
    content = parse_json(read_bytes(path, _LARGEST_JSON), str(path))
    if schema is not None:
        check_schema(content, schema, str(path))
    return content


def parse_json(content: bytes | str, where: str) -> Any:
    """Return JSON as data; see `read_json`.

    Args:
        where: names it in errors.
    """

    def parse() -> Any:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)

    return _plain(parse, "JSON", where)


def read_text(path: str | os.PathLike[str], where: str) -> str:
    """Return a text file, of the size of a config at most.

    Raises:
        InputError: missing, unreadable, larger, or not UTF-8.
    """
    try:
        return read_bytes(path, _LARGEST_YAML, where).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error}); save it as UTF-8") from error


def parse_yaml(text: str, where: str) -> Any:
    """Return YAML as plain data; a date stays a text.

    Args:
        where: names it in errors.

    Raises:
        InputError: not YAML, a key that occurs twice, an alias, deep nesting, or what is neither object, list, text,
            finite number, truth value nor null.
    """
    if len(text) > _LARGEST_YAML:
        raise InputError(f"{where}: more than the {_LARGEST_YAML >> 20} MB that such a file may have; check the path")
    return _plain(lambda: _load(text), "YAML", where)


def check_schema(content: Any, schema: Mapping[str, Any], where: str) -> None:
    """Refuse data that break a JSON schema.

    Raises:
        InputError: names the first such field by its place, as `metrics.json: cases[3].organs.liver.dice`.
    """
    for place, reason in schema_faults(content, schema):
        raise InputError(f"{where}: {place}{': ' if place else ''}{reason}; repair the file or make it again")


def schema_faults(content: Any, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the place, empty for the whole, and the kind of everything in which data break a JSON schema."""
    for error in _validator()(schema).iter_errors(content):
        yield "".join(map(_step, error.absolute_path)).removeprefix("."), _reason(error)


@cache
def _validator() -> Any:
    """Return jsonschema's class of validators, to which 1.0 is no whole number."""
    import jsonschema  # takes a while; only needed here

    draft = jsonschema.Draft202012Validator
    types = draft.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return jsonschema.validators.extend(draft, type_checker=types)


def _plain(parse: Callable[[], Any], kind: str, where: str) -> Any:
    try:
        content = parse()
    except RecursionError as error:
        raise InputError(f"{where}: nested too deeply; repair the file or make it again") from error
    except (ValueError, TypeError, AttributeError, OverflowError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: not valid {kind} ({reason}); repair the file or make it again") from error
    fault = _fault(content, 0)
    if fault is not None:
        place, reason = fault
        place = place.removeprefix(".")
        raise InputError(f"{where}: {place}{': ' if place else ''}{reason}; repair the file or make it again")
    return content


def _fault(value: Any, depth: int) -> tuple[str, str] | None:
    """Return the place and the kind of what is no plain data, the first there is."""
    if isinstance(value, dict | list):
        if depth == _DEEPEST:
            return "", f"nested more than {_DEEPEST} deep"
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            fault = _fault(key, _DEEPEST) or _fault(inner, depth + 1)
            if fault is not None:
                return _step(key) + fault[0], fault[1]
        return None
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            return "", "a text with half a character (a lone surrogate)"
    elif value is not None and not isinstance(value, int | float):
        return "", f"a {type(value).__name__}, which is not taken"
    elif isinstance(value, int | float) and not -_LARGEST_NUMBER < value < _LARGEST_NUMBER:
        return "", "a number that is too large or none"
    return None


def _step(key: Any) -> str:
    return f"[{key}]" if isinstance(key, int) else f".{ascii(key)[1:-1][:_SHOWN]}"


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{_doubled([key for key, _ in pairs])} occurs twice")
    return found


def _doubled(names: Sequence[str]) -> str:
    return ascii(next(name for name in names if names.count(name) > 1))


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


class _Loader(LOADER):  # type: ignore[misc, valid-type]
    """Reads dates as texts, and refuses keys that stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.YAMLError(f"{_doubled(names)} occurs twice, line {node.start_mark.line + 1} and below")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _TIMESTAMP]
    for first, resolvers in LOADER.yaml_implicit_resolvers.items()
}


def _load(text: str) -> Any:
    depth = 0
    for event in yaml.parse(text, _Loader):  # in a loop: what is nested deeply cannot be composed
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias in line {event.start_mark.line + 1}: write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise RecursionError
    return yaml.load(text, _Loader)


def _reason(error: Any) -> str:
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{missing} is missing"
    if error.validator == "additionalProperties" and error.validator_value is False:
        unknown = next(key for key in error.instance if key not in error.schema["properties"])
        return f"{unknown} is unknown; known are {', '.join(error.schema['properties'])}"
    got = json.dumps(error.instance)
    return f"{needed(error.schema)} is needed, got {got if len(got) <= _SHOWN else got[:_SHOWN] + '...'}"


def needed(schema: Mapping[str, Any]) -> str:
    """Return in words what a schema asks of a value."""
    if "description" in schema:
        return schema["description"]
    if "enum" in schema:
        return f"one of {', '.join('null' if value is None else str(value) for value in schema['enum'])}"
    types = schema.get("type", "object")
    return " or ".join(_kind(name, schema) for name in ([types] if isinstance(types, str) else types))


def _kind(name: str, schema: Mapping[str, Any]) -> str:
    if name in ("number", "integer"):
        return _WORDS[name] + _range(schema)
    items = schema.get("items", {})
    if name == "array" and str(items.get("type")) in _PLURALS:
        least = schema.get("minItems", 0)
        count = f"{least} " if least == schema.get("maxItems") else ""
        return f"a list of {count}{_PLURALS[items['type']]}{_range(items)}"
    if (name == "array" and schema.get("minItems")) or (name == "string" and schema.get("minLength")):
        return f"{_WORDS[name]} that is not empty"
    if name == "string" and "pattern" in schema:
        return f"a text of the form {schema['pattern']}"
    return _WORDS[name]


def _range(schema: Mapping[str, Any]) -> str:
    low, high, above, below = (
        schema.get(key) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    )
    if below is not None:
        return f" from {low} to below {below}"
    if above is not None:
        return f" above {above}" + ("" if high is None else f", at most {high}")
    if low is None:
        return "" if high is None else f", at most {high}"
    return f" from {low} on" if high is None else f" from {low} to {high}"
