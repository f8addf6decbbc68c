"""Trainings that begin with weights: the options that these need."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.errors import InputError
from ragsam.networks.checkpoints import load_metadata
from ragsam.networks.starting import base_fault
from ragsam.networks.tuning import TUNINGS, chosen_names
from ragsam.runs.options import TUNING
from ragsam.runs.run import WEIGHTS

#: Knobs that shape every tensor: the weights' values are the training's.
_NEEDED = ("backbone", "image_size", "patch_size", "full_tuning", "normalisation")


def start_file(start: str | os.PathLike[str]) -> Path:
    """Return the weights file of a start: a file, or a run that has one; absolute."""
    path = Path(start).absolute()
    return path / WEIGHTS if path.is_dir() else path


def start_knobs(start: Path, values: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Return the knobs that a training needs to begin with weights, those of `values` among them.

    Parts that the weights lack and that begin at zero effect may be switched on or left as they are.

    Args:
        start: the weights file.
        values: knobs that were asked for.
        num_classes: organs of the data set.

    Raises:
        InputError: no weights of ours, or a knob that contradicts them.
    """
    about = load_metadata(start)
    if missing := [name for name in (*_NEEDED, "tuning", "base_sha256", "detail", "fusion") if name not in about]:
        raise InputError(f"{start.name}: says nothing of {missing[0]}; make it anew with this version")
    needed = {name: about[name] for name in _NEEDED}
    needed |= {name: about[name] for name in ("detail", "fusion", "prompts") if about.get(name)}
    if about["base_sha256"] is None and not about["detail"]:
        needed["detail"] = False  # without base weights it does not begin at zero effect
    for name, value in needed.items():
        if name in values and values[name] != value:
            _contradicts(name, values[name], start, value)
    wished = {"context_slices": about.get("context_slices", (about.get("preparation") or {}).get("context_slices"))}
    if num_classes == 1:
        wished["mask_tokens"] = about.get("mask_tokens")
    defaults = {name: value for name, value in wished.items() if value is not None}
    return {**defaults, **needed, **_tuning_knobs(start, about["tuning"], values), **values}


def require_base(start: Path, base_sha256: str | None) -> None:
    """Check that weights were made on the base weights at hand.

    Raises:
        InputError: they were not.
    """
    wanted = load_metadata(start)["base_sha256"]
    if wanted != base_sha256:
        raise InputError(f"--set start: {start.name} was {base_fault(wanted)}")


def _tuning_knobs(start: Path, tuning: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `network_def` that weights need: what tuned them, and nothing else unless asked for."""
    if (peft := values.get("peft")) is not None and not set(tuning) <= set(chosen_names(peft)):
        _contradicts("peft", peft, start, list(tuning))
    knobs = {}
    for name in TUNINGS:
        asked = {key: values[key] for key in values if f"{key}.".startswith(f"{TUNING}{name}.")}
        if name not in tuning:
            knobs |= {} if asked else {TUNING + name: None}
            continue
        knobs[TUNING + name] = tuning[name]
        for key, value in asked.items():
            option = key.removeprefix(TUNING + name).removeprefix(".")
            theirs = tuning[name].get(option) if option else tuning[name]
            if value != theirs and option != "dropout":
                _contradicts(key, value, start, theirs)
    return knobs


def _contradicts(name: str, value: Any, start: Path, theirs: Any) -> None:
    raise InputError(f"--set {name}: {value!r}, but the weights of start ({start.name}) have {theirs!r}; leave it out")
