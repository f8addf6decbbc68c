"""What a bundle's configs may run. They are read as data: nothing of them is evaluated, imported or built.

MONAI calls whatever a config names under `_target_`, evaluates every text that begins with `$`, and Python evaluates
parts of a `logging.conf`. Allowed is what the packaged bundles do themselves, and little more; anything else is told.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ragsam.errors import InputError
from ragsam.runs.expression_safety import expression_fault

MAX_BYTES = 1_000_000
_CONFIGS = (".yaml", ".yml", ".json")
#: What Python would import in place of a package of that name: MONAI puts a bundle's folder first on its path.
_CODE = (".py", ".pyc", ".so", ".pyd")
#: Parts that only compute, by their class's name: losses, optimizers, schedules, layers.
_PARTS = re.compile(r"(torch\.optim(\.lr_scheduler)?|torch\.nn|monai\.losses)\.[A-Z][A-Za-z0-9]*")


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, by which a few lines could stand for any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def code_faults(bundle: str | os.PathLike[str]) -> list[str]:
    """Return a line for everything in a bundle that might run code of its own; an empty list for a sound one.

    Looked at are all configs with what they name, `logging.conf`, files that Python could import, and links that lead
    out of the folder. Not judged are the paths that a config names: what is allowed to run writes where it says.

    Args:
        bundle: its folder.
    """
    root = Path(bundle)
    faults = [line for path in sorted(root.rglob("*")) for line in _file_faults(root, path)]
    for path in sorted((root / "configs").rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() in _CONFIGS:
            try:
                faults += _config_faults(name, read_config(path))
            except InputError as error:
                faults.append(str(error))
        elif path.name == "logging.conf" and path.read_bytes() != _packaged_logging():
            faults.append(f"{name}: not the package's own; Python runs parts of it: take that of a packaged bundle")
    return faults


def read_config(path: str | os.PathLike[str]) -> Any:
    """Read a YAML or JSON config as data.

    Raises:
        InputError: too large, not UTF-8, no valid YAML or JSON, an alias or a tag, or nested too deeply.
    """
    path = Path(path)
    name = f"configs/{path.name}"
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{name}: {path.stat().st_size} bytes, above {MAX_BYTES}; it is no config of a bundle")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{name}: cannot be read as data ({reason}); take it from a packaged bundle") from error


def _file_faults(root: Path, path: Path) -> Iterator[str]:
    name = path.relative_to(root).as_posix()
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        yield f"{name}: a link that leads out of the bundle; put the file itself there"
    if path.suffix.lower() in _CODE:
        yield f"{name}: code, which Python would import before its own packages; take it out"


def _config_faults(name: str, content: Any) -> Iterator[str]:
    """Yield what a config's content may run beyond what is allowed."""
    for where, value in _walk(content, ""):
        if isinstance(value, str):
            reason = _text_fault(value)
        elif isinstance(value, dict) and "_target_" in value:
            reason = _target_fault(value)
        else:
            continue
        if reason:
            yield f"{name}: {where or 'top'}: {reason}"


def _walk(content: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every value of nested mappings and lists, keys too, with its place."""
    yield where, content
    if isinstance(content, dict):
        for key, value in content.items():
            yield f"{where}#{key}".strip("#"), str(key)
            yield from _walk(value, f"{where}#{key}".strip("#"))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _walk(value, f"{where}#{index}".strip("#"))


def _text_fault(text: str) -> str | None:
    if text.startswith("%"):
        return f"{_shown(text)} takes in another file; write its content here"
    if text.startswith("$") and text not in _packaged("expressions"):
        reason = expression_fault(text[1:])
        return reason and f"{_shown(text)}: {reason}; no bundle of this package does that"
    return None


def _target_fault(component: dict[str, Any]) -> str | None:
    target, mode = component["_target_"], component.get("_mode_", "default")
    if mode not in ("default", "callable"):
        return f"_mode_ {_shown(mode)} is not default or callable"
    if not isinstance(target, str) or (target not in _packaged("targets") and not _PARTS.fullmatch(target)):
        return f"_target_ {_shown(target)} is nothing that a bundle of this package calls"
    return None


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def _packaged(kind: str) -> frozenset[str]:
    """Return the expressions or targets of the packaged bundles."""
    found: dict[str, set[str]] = {"expressions": set(), "targets": set()}
    for path in _packaged_folder().glob("*/configs/*.yaml"):
        for _, value in _walk(read_config(path), ""):
            if isinstance(value, str) and value.startswith("$"):
                found["expressions"].add(value)
            elif isinstance(value, dict) and "_target_" in value:
                found["targets"].add(value["_target_"])
    return frozenset(found[kind])


@cache
def _packaged_logging() -> bytes:
    return (_packaged_folder() / "sam_lora" / "configs" / "logging.conf").read_bytes()


def _packaged_folder() -> Path:
    return Path(str(resources.files("ragsam.bundles")))
