"""Configs read as data: a plain YAML or JSON file of bounded size. Nothing of it is evaluated, imported or built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.io.documents import parse_json, parse_yaml, read_text
from ragsam.runs.settings import check_config


def config_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a config.

    Raises:
        InputError: no file, too large, or not UTF-8.
    """
    path = Path(path)
    name = f"configs/{path.name}"
    if not path.is_file():
        raise InputError(f"{name}: no such file, or not a plain file; take it from a packaged bundle")
    return read_text(path, name)


def read_config(path: str | os.PathLike[str]) -> Any:
    """Read a YAML or JSON config as data.

    Raises:
        InputError: as `config_text`, or no valid YAML or JSON, an alias or a tag, or nested too deeply.
    """
    return _parsed(Path(path), config_text(path))


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a config whose entries have names, as each config of a bundle has.

    Raises:
        InputError: as `read_config`, something else than a mapping of names, or an option whose value is of another
            type or out of its range.
    """
    return _mapping(Path(path), config_text(path))


def checked_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a config that `read_mapping` takes; raises as that does."""
    text = config_text(path)
    _mapping(Path(path), text)
    return text


def _parsed(path: Path, text: str) -> Any:
    parse = parse_json if path.suffix.lower() == ".json" else parse_yaml
    return parse(text, f"configs/{path.name}")


def _mapping(path: Path, text: str) -> dict[str, Any]:
    content = _parsed(path, text)
    name = f"configs/{path.name}"
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{name}: no mapping of names to values; take it from a packaged bundle")
    check_config(content, name)
    return content
