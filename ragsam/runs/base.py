"""Trainings on base weights: how these stand in a config, and the options that they need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ragsam.networks.bases import BASES, base_file
from ragsam.networks.checkpoints import read_state_dict
from ragsam.networks.encoders import family_of
from ragsam.networks.formats import hiera_options, tiny_vit_options


def settled_base(base: str | os.PathLike[str]) -> str:
    """Return base weights as a config names them: by a known name, or by an absolute path."""
    return str(base) if str(base) in BASES else str(Path(base).absolute())


def base_options(base: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the options that a training on base weights has where it sets no others.

    They are known by the name, and of a file with a TinyViT or a Hiera by its tensors. A ViT's `backbone` is set by
    who trains it.

    Raises:
        InputError: base weights that are not installed, or cannot be read.
    """
    path = base_file(base)
    if str(base) in BASES:
        return dict(BASES[str(base)].options)
    state = read_state_dict(path)
    family = family_of(state)
    if family == "hiera":
        return {**hiera_options(state), "context_slices": 0}
    if family != "tiny_vit":
        return {}
    options = tiny_vit_options(state)
    del options["image_size"]  # it is free
    return {**options, "context_slices": 0}
