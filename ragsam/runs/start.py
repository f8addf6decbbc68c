"""Trainings that begin with weights: the options that these need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.networks.checkpoints import load_metadata
from ragsam.networks.starting import base_fault
from ragsam.networks.tuning import chosen_names
from ragsam.runs.run import WEIGHTS
from ragsam.runs.settings import TUNING
from ragsam.runs.weights import require_layout

#: Options that shape every tensor: the weights' values are the training's.
_NEEDED = ("backbone", "image_size", "patch_size", "full_tuning", "normalisation")
#: Parts that the training has where the weights have them.
_KEPT = ("detail", "fusion", "prompts")
#: What every weights file of ours says.
_SAID = (*_NEEDED, "tuning", "base_sha256", "detail", "fusion")


def start_file(start: str | os.PathLike[str]) -> Path:
    """Return the weights file of a start: a file, or a run that has one; absolute."""
    path = Path(start).absolute()
    return path / WEIGHTS if path.is_dir() else path


def start_options(start: Path, values: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Return the options that a training needs to begin with weights, those of `values` among them.

    Parts that the weights lack and that begin at zero effect may be switched on or left as they are.

    Args:
        start: the weights file.
        values: options that were asked for.
        num_classes: organs of the data set.

    Raises:
        InputError: no weights of ours, or an option that contradicts them.
    """
    about = load_metadata(start)
    for name in _SAID:
        if name not in about:
            raise InputError(f"{start.name}: does not state {name}; make it again with this version")
    needed = {name: about[name] for name in _NEEDED}
    needed |= {name: about[name] for name in _KEPT if about.get(name)}
    needed["slice_layout"] = require_layout(start, about)
    needed["efficient_decoder"] = about.get("efficient_decoder")
    if about["base_sha256"] is None and not about["detail"]:
        needed["detail"] = False  # without base weights it does not begin at zero effect
    for name, value in needed.items():
        _require_same(name, values.get(name, value), value, start)
    needed |= _tuning(start, about["tuning"], values)
    preparation = about.get("preparation") or {}
    context_slices = about.get("context_slices", preparation.get("context_slices"))
    defaults = {}
    if context_slices is not None:
        defaults["context_slices"] = context_slices
    if num_classes == 1 and about.get("mask_tokens") is not None:
        defaults |= {"mask_tokens": about["mask_tokens"], "enlarged": about.get("enlarged", "logits")}
    return {**defaults, **needed, **values}


def require_base(start: Path, base_sha256: str | None) -> None:
    """Check that weights were made on the base weights at hand.

    Raises:
        InputError: they were not.
    """
    wanted = load_metadata(start)["base_sha256"]
    if wanted != base_sha256:
        raise InputError(f"--set start: {start.name} was {base_fault(wanted)}")


def _tuning(start: Path, tuning: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that tune as the weights need it: theirs, and nothing else unless asked for."""
    peft = values.get("peft")
    if peft is not None and not set(tuning) <= set(chosen_names(peft)):
        _require_same("peft", peft, list(tuning), start)
    needed: dict[str, Any] = {**dict.fromkeys(TUNING), **tuning}
    for name, value in values.items():
        way, _, entry = name.partition(".")
        if way not in TUNING:
            continue
        if way not in tuning:
            needed.pop(way, None)
        elif entry == "":
            _require_same(name, value, tuning[way], start)
        elif entry != "dropout":
            _require_same(name, value, tuning[way].get(entry), start)
    return needed


def _require_same(name: str, value: Any, theirs: Any, start: Path) -> None:
    if value != theirs:
        have = f"but the weights of start ({start.name}) have {theirs!r}"
        raise InputError(f"--set {name}: {value!r}, {have}; leave it out")
