"""Ways to damage a file: bytes, texts, and JSON or YAML by its nodes. Every one is drawn from a seeded generator."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

DEEP = 3000  # brackets: more than Python's own parsers nest
INTERESTING_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
NUMBERS = (0, -1, 1, 2, 0.5, -0.0, 1e-12, 1e12, 255, 65535, 65536, 2**31, 2**63, 10**30)
TEXTS = ("", " ", "x", "é", "\u202e", "..", "/", "../..", "a/b", "$1+1", "@bank", "%x", "x" * 5000, "1e400", "null")


class Raw(str):
    """Text that goes into a JSON file as it is."""


#: What no Python value is written as: JSON's own odd corners.
RAW = (Raw("NaN"), Raw("-Infinity"), Raw("1e400"), Raw('"\\ud800"'), Raw("[" * DEEP + "]" * DEEP), Raw("2026-01-01"))


def damaged_bytes(draw: random.Random, data: bytes, first: int = 0, last: int | None = None) -> bytes:
    """Flip, set, cut, insert or double bytes between two places."""
    out = bytearray(data)
    end = min(len(out), last or len(out))
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        place = draw.randrange(first, max(end, first + 1))
        how = draw.randrange(6)
        if how == 0:
            out[place : place + 1] = bytes([out[place] ^ (1 << draw.randrange(8))]) if place < len(out) else b"\0"
        elif how == 1:
            out[place : place + 1] = bytes([draw.choice(INTERESTING_BYTES)])
        elif how == 2:
            out[place : place + 4] = struct.pack("<i", draw.choice((0, -1, 1, 2**31 - 1, -(2**31))))
        elif how == 3:
            out[place : place + 4] = struct.pack(
                "<f", draw.choice((0.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30))
            )
        elif how == 4:
            del out[place : place + draw.choice((1, 2, 16, len(out)))]
        else:
            out[place:place] = draw.randbytes(draw.choice((1, 2, 16)))
    return bytes(out)


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every node below the root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from nodes(value, (*path, key))


def parent_of(tree: Any, path: tuple[Any, ...]) -> Any:
    """Return what holds a node."""
    for key in path[:-1]:
        tree = tree[key]
    return tree


def odd_value(draw: random.Random, value: Any, raw: bool) -> Any:
    """Return something else than a value: of another type, another size, or no value at all."""
    choices: list[Callable[[], Any]] = [
        lambda: draw.choice((None, True, False)),
        lambda: draw.choice(NUMBERS),
        lambda: draw.choice(TEXTS),
        lambda: draw.choice(([], {}, [value], {"x": value}, [[]], [1, "x", None])),
        lambda: [value] * 50,
        lambda: -value if isinstance(value, int | float) else value,
        lambda: str(value),
    ]
    if raw:
        choices.append(lambda: draw.choice(RAW))
    return draw.choice(choices)()


def damaged_tree(draw: random.Random, tree: Any, *, raw: bool = True) -> Any:
    """Change, drop, add, rename or swap some nodes of a JSON value."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        paths = list(nodes(tree))
        if not paths:
            return odd_value(draw, tree, raw)
        path = draw.choice(paths)
        holder, key = parent_of(tree, path), path[-1]
        how = draw.randrange(6)
        if how <= 2:
            holder[key] = odd_value(draw, holder[key], raw)
        elif how == 3:
            del holder[key]
        elif how == 4 and isinstance(holder, dict):
            holder[draw.choice((*TEXTS, str(key).upper()))] = holder.pop(key)
        elif isinstance(holder, list):
            holder.insert(draw.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        else:
            holder[draw.choice(TEXTS)] = copy.deepcopy(holder[key])
    return tree


def json_text(tree: Any) -> str:
    """Return a tree as JSON, with its raw texts as they are."""
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, dict):
        return "{" + ",".join(f"{json.dumps(str(key))}:{json_text(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(json_text, tree)) + "]"
    return json.dumps(tree)


def damaged_json(draw: random.Random, tree: Any) -> bytes:
    """Return a JSON file of a damaged tree; one in five is damaged as bytes instead."""
    if draw.random() < 0.2:
        return damaged_bytes(draw, json.dumps(tree).encode())
    return json_text(damaged_tree(draw, tree)).encode()
