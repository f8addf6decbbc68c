"""Recipes: knobs that belong together, by a name. They are plain values, which a run has in its own configs."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ragsam.errors import InputError


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def recipe(name: str) -> dict[str, Any]:
    """Return the knobs of a recipe.

    Raises:
        InputError: no such recipe.
    """
    if name not in recipe_names():
        raise InputError(f"--recipe {name}: there is none of that name; take one of {', '.join(recipe_names())}")
    return yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))


def _folder() -> Path:
    return Path(str(resources.files("ragsam.bundles"))) / "recipes"
