"""What a bundle's configs may run. They are read as data: nothing of them is evaluated, imported or built.

MONAI calls whatever a config names under `_target_`, evaluates every text that begins with `$`, and Python evaluates
parts of a `logging.conf`. Allowed is what the packaged bundles do themselves, now and in the first layout, and little
more; anything else is reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from ragsam.errors import InputError
from ragsam.runs import earlier_names
from ragsam.runs.config_reader import read_config
from ragsam.runs.expression_safety import expression_fault, path_constants
from ragsam.runs.options import BUNDLES
from ragsam.runs.run import CONFIGS_FOLDER, RunFolder

_CONFIGS = (".yaml", ".yml", ".json")
#: What Python would import instead of a package of that name: MONAI puts a bundle's folder first on its path.
_CODE = (".py", ".pyw", ".pyc", ".so", ".pyd")
#: Parts that only compute, by their class's name: losses, optimizers, schedules, layers. Perceptual losses fetch code.
_PARTS = re.compile(r"(torch\.optim(\.lr_scheduler)?|torch\.nn|monai\.losses)\.(?!Perceptual)[A-Z][A-Za-z0-9]*")
_MODES = ("default", "callable")
#: Options of a run that may name places of its owner's machine: what it was trained on, as data, and where it writes.
_OWN_PLACES = ("dataset_dir", "datalist", "base", "start", "baseline", "mlflow", "log", "checkpoints", "board")
_OWN_PLACES += ("output_dir", "evaluation_dir", "pseudo_labels")
_CASES = "load_datalist(@datalist)"
_OF_OWN_PLACE = re.compile(rf"@({'|'.join(_OWN_PLACES)})\b")


def code_faults(bundle: str | os.PathLike[str]) -> list[str]:
    """Return a line for everything in a bundle that might run code of its own; an empty list for a sound one.

    Looked at are all configs with what they name, those of bundles within it too, `logging.conf`, files that Python
    could import, links that lead out of the folder and what is no plain file. What a config loads must be in
    the folder too, but for what its owner trained it on; where it writes is not judged.

    Args:
        bundle: its folder.
    """
    root = Path(bundle)
    faults: list[str] = []
    configs: list[Path] = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(root.resolve())):
            faults.append(f"{name}: a link to a folder, or out of the bundle; put what it leads to there itself")
        elif not (path.is_file() or path.is_dir()):
            faults.append(f"{name}: no plain file; take it out")
        elif path.suffix.lower() in _CODE:
            faults.append(f"{name}: code, which Python would import before its own packages; take it out")
        elif CONFIGS_FOLDER in map(str.casefold, path.relative_to(root).parts[:-1]):
            configs.append(path)
    packaged = BUNDLES / "sam_lora" / "configs" / "logging.conf"
    for path in configs:
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() in _CONFIGS:
            faults += config_faults(path, name) or _place_faults(path, name)
        elif path.name == "logging.conf" and path.read_bytes() != packaged.read_bytes():
            faults.append(f"{name}: not the package's own; Python runs parts of it: take that of a packaged bundle")
    return faults


def sound_run(path: str | os.PathLike[str]) -> RunFolder:
    """Return a run that another one names, once what of it runs is read as data and found to run no code of its own.

    Raises:
        InputError: no run, or one that might run code.
    """
    run = RunFolder(path)
    if faults := config_faults(run.config("inference"), "configs/inference.yaml"):
        raise InputError(f"ensemble: {run.path.name}: {faults[0]}")
    return run


def leads_out(text: str) -> bool:
    """Whether a text of a config names a place outside of the bundle: an absolute path, or one with `..`.

    In an expression each path has to follow a folder of the config's, as in `$@bundle_root + '/bank'`.
    """
    if text in _allowed().expressions:
        return False
    if text.startswith("$"):
        return any(path_constants(text[1:]))
    parts = re.split(r"[/\\]", text)
    return ".." in parts or text.startswith(("/", "~")) or PureWindowsPath(text).is_absolute()


def leading_out(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the texts of a config that name places outside of its bundle, each with its own place; see `leads_out`."""
    for where, value in _walk(content, ""):
        if isinstance(value, str) and leads_out(value):
            yield where, value


def _place_faults(path: Path, name: str) -> list[str]:
    """Return what a config names outside of its bundle, but for what its owner trained on and where it writes.

    Such places may not be named by anything else: a bank that is `@dataset_dir` would be outside too.
    """
    if path.name in ("card.yaml", "metadata.json"):
        return []
    return [
        f"{name}: {where}: {_shown(value)} leads out of the bundle; put what it names into it"
        for where, value in _walk(read_config(path), "")
        if isinstance(value, str) and where.split("#")[0] not in _OWN_PLACES
        if leads_out(value) or not _usual(where, value)
    ]


def _usual(where: str, value: str) -> bool:
    """Whether the packaged bundles have a text in an entry of that name, or it names no place but the datalist's."""
    return (_entry(where), value) in _allowed().entries or not _OF_OWN_PLACE.search(value.replace(_CASES, ""))


def _entry(where: str) -> str:
    """Return the last name in a place; a list's elements have its own."""
    return next((part for part in reversed(where.split("#")) if not part.isdigit()), "")


def config_faults(path: Path, name: str) -> list[str]:
    """Return what a config may run beyond what is allowed, a line each, which begins with its name."""
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
        return f"{_shown(text)} includes another file; write its content here"
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
    entries: set[tuple[str, str]]
    targets: set[str]


@cache
def _allowed() -> _Allowed:
    allowed = _Allowed(set(earlier_names.EXPRESSIONS), set(), set(earlier_names.TARGETS))
    for path in BUNDLES.glob("*/configs/*.yaml"):
        for where, value in _walk(read_config(path), ""):
            if isinstance(value, str):
                allowed.expressions.add(value)
                allowed.entries.add((_entry(where), value))
            elif isinstance(value, dict):
                allowed.targets.update(_targets(value))
    return allowed
