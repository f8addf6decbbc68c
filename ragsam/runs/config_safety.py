"""What a bundle's configs may run. They are read as data: nothing of them is evaluated, imported or built.

MONAI calls whatever a config names under `_target_`, evaluates every text that begins with `$`, and Python evaluates
parts of a `logging.conf`. Allowed is what the packaged bundles do themselves, now and in the first layout, and little
more; anything else is told.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ragsam.errors import InputError
from ragsam.runs import earlier_names
from ragsam.runs.expression_safety import expression_fault
from ragsam.runs.options import BUNDLES

MAX_BYTES = 1_000_000
_CONFIGS = (".yaml", ".yml", ".json")
#: What Python would import in place of a package of that name: MONAI puts a bundle's folder first on its path.
_CODE = (".py", ".pyc", ".so", ".pyd")
#: Parts that only compute, by their class's name: losses, optimizers, schedules, layers.
_PARTS = re.compile(r"(torch\.optim(\.lr_scheduler)?|torch\.nn|monai\.losses)\.[A-Z][A-Za-z0-9]*")
_MODES = ("default", "callable")


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
    faults: list[str] = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            faults.append(f"{name}: a link that leads out of the bundle; put the file itself there")
        if path.suffix.lower() in _CODE:
            faults.append(f"{name}: code, which Python would import before its own packages; take it out")
    packaged = BUNDLES / "sam_lora" / "configs" / "logging.conf"
    for path in sorted((root / "configs").rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() in _CONFIGS:
            faults += _config_faults(name, path)
        elif path.name == "logging.conf" and path.read_bytes() != packaged.read_bytes():
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
        if path.suffix.lower() == ".json":
            return json.loads(text)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{name}: cannot be read as data ({reason}); take it from a packaged bundle") from error


def _config_faults(name: str, path: Path) -> list[str]:
    """Return what a config may run beyond what is allowed."""
    try:
        content = read_config(path)
    except InputError as error:
        return [str(error)]
    faults = []
    for where, value in _walk(content, ""):
        reason = None
        if isinstance(value, str):
            reason = _text_fault(value)
        elif isinstance(value, dict):
            reason = _mapping_fault(value)
        if reason is not None:
            faults.append(f"{name}: {where or 'top'}: {reason}")
    return faults


def _walk(content: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every value of nested mappings and lists, keys too, with its place."""
    yield where, content
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, dict):
        entries = content.items()
    elif isinstance(content, list):
        entries = enumerate(content)
    for key, value in entries:
        place = f"{where}#{key}".strip("#")
        if isinstance(content, dict):
            yield place, str(key)
        yield from _walk(value, place)


def _text_fault(text: str) -> str | None:
    if text.startswith("%"):
        return f"{_shown(text)} takes in another file; write its content here"
    if not text.startswith("$") or text in _allowed().expressions:
        return None
    reason = expression_fault(text[1:])
    if reason is None:
        return None
    return f"{_shown(text)}: {reason}; no bundle of this package does that"


def _mapping_fault(component: dict[Any, Any]) -> str | None:
    for target in _targets(component):
        mode = component.get("_mode_", "default")
        if mode not in _MODES:
            return f"_mode_ {_shown(mode)} is not default or callable"
        known = isinstance(target, str) and (target in _allowed().targets or _PARTS.fullmatch(target))
        if not known:
            return f"_target_ {_shown(target)} is nothing that a bundle of this package calls"
    return None


def _targets(component: dict[Any, Any]) -> list[Any]:
    """Return what a mapping names to be called; of another part by its place too, as `handlers#1#_target_`."""
    return [value for key, value in component.items() if re.split("#|::", str(key))[-1] == "_target_"]


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Allowed(NamedTuple):
    """What the packaged bundles do, now and in the first layout."""

    expressions: set[str]
    targets: set[str]


@cache
def _allowed() -> _Allowed:
    allowed = _Allowed(set(earlier_names.EXPRESSIONS), set(earlier_names.TARGETS))
    for path in BUNDLES.glob("*/configs/*.yaml"):
        for _, value in _walk(read_config(path), ""):
            if isinstance(value, str):
                allowed.expressions.add(value)
            elif isinstance(value, dict):
                allowed.targets.update(_targets(value))
    return allowed
