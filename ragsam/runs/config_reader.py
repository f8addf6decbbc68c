"""Configs read as data: a plain YAML or JSON file of bounded size. Nothing of it is evaluated, imported or built."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from ragsam.errors import InputError

MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, by which a few lines could stand for any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def config_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a config.

    Raises:
        InputError: no file, too large, or not UTF-8.
    """
    path = Path(path)
    name = f"configs/{path.name}"
    if not path.is_file():
        raise InputError(f"{name}: no such file, or no plain one; take it from a packaged bundle")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{name}: {path.stat().st_size} bytes, above {MAX_BYTES}; it is no config of a bundle")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read ({error}); take it from a packaged bundle") from error


def read_config(path: str | os.PathLike[str]) -> Any:
    """Read a YAML or JSON config as data.

    Raises:
        InputError: as `config_text`, or no valid YAML or JSON, an alias or a tag, or nested too deeply.
    """
    path = Path(path)
    text = config_text(path)
    try:
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"configs/{path.name}: cannot be read as data ({reason}); mend it") from error


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a config whose entries have names, as each config of a bundle has.

    Raises:
        InputError: as `read_config`, or something else than a mapping of names.
    """
    content = read_config(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"configs/{Path(path).name}: no mapping of names to values; take it from a packaged bundle")
    return content
