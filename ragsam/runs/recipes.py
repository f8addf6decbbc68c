"""Recipes: options that belong together, by a name. They are plain values, which a run has in its own configs."""

from __future__ import annotations

from typing import Any

import yaml

from ragsam.errors import InputError
from ragsam.runs.options import BUNDLES

_RECIPES = BUNDLES / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def recipe(name: str) -> dict[str, Any]:
    """Return the options of a recipe.

    Raises:
        InputError: no such recipe.
    """
    known = recipe_names()
    if name not in known:
        raise InputError(f"--recipe {name}: no such recipe; choose one of {', '.join(known)}")
    return yaml.safe_load((_RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
