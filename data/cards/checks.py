"""Checks that the parts of a card's yaml share; each refuses in one line that says what to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import filterfalse
from typing import Any

from ragsam.errors import InputError


class Faults:
    """Everything that is wrong with a card, so that it can be reported at once.

    Args:
        where: how errors name the card.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._found: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the refusal that ends the block, and continue behind it."""
        try:
            yield
        except InputError as error:
            self._found.append(str(error).removeprefix(f"{self.where}: "))

    def tell(self) -> None:
        """Refuse the card in one line, where a fault was noted."""
        if len(self._found) == 1:
            raise InputError(f"{self.where}: {self._found[0]}")
        if self._found:
            raise InputError(f"{self.where}: {len(self._found)} faults: {'; '.join(self._found)}")


def check_keys(content: Any, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> None:
    """Refuse what is no mapping, lacks a required key, or has one that is not known."""
    if not isinstance(content, Mapping):
        keys = ", ".join(required or optional)
        raise InputError(f"{where}: {type(content).__name__} found; it must be a mapping of {keys}")
    told = []
    if missing := ", ".join(filterfalse(content.__contains__, required)):
        told.append(f"missing {missing}; add it")
    known = (*required, *optional)
    if unknown := ", ".join(map(str, filterfalse(known.__contains__, content))):
        told.append(f"unknown key {unknown}; known are {', '.join(known)}")
    if told:
        raise InputError(f"{where}: {'; '.join(told)}")


def require_one(content: Mapping[str, Any], ways: tuple[str, ...], where: str) -> None:
    """Refuse a mapping that has none or several of the keys."""
    if len(content.keys() & set(ways)) != 1:
        raise InputError(f"{where}: it must have exactly one of {', '.join(ways)}")


def text(value: Any, where: str) -> str:
    """Return a text without the space around it; refuse anything else, or an empty one."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} is {value!r}; it must be a text that is not empty")
    return value.strip()


def texts(value: Any, where: str) -> tuple[str, ...]:
    """Return a list of texts; refuse anything else, an empty one, or a text that is in it twice."""
    if not isinstance(value, list) or not value or len(set(map(str, value))) != len(value):
        raise InputError(f"{where} is {value!r}; it must be a list of texts, each named once")
    return tuple(text(entry, f"{where}: entry") for entry in value)


def one_of(value: Any, known: tuple[str, ...], where: str) -> str:
    """Return the value where it is a known one."""
    if value not in known:
        raise InputError(f"{where} is {value!r}; it must be one of {', '.join(known)}")
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; yaml's true and false do not count."""
    return type(value) in (int, float) and abs(value) < float("inf")


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; yaml's true and false do not count."""
    return type(value) is int


def are_whole(values: Any, lowest: int, highest: int) -> bool:
    """Return whether a value is a list of whole numbers between two bounds, one at least."""
    return (
        isinstance(values, list) and set(map(type, values)) == {int} and lowest <= min(values) <= max(values) <= highest
    )
