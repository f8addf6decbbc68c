"""The names of the first layout, for the configs of runs that were made with it: `ragsam.workflows.MODULE.NAME`."""

from __future__ import annotations

from types import SimpleNamespace

from ragsam import bundle
from ragsam.runs.earlier_names import WORKFLOWS


def __getattr__(module: str) -> SimpleNamespace:
    if module not in WORKFLOWS:
        raise AttributeError(f"module {__name__!r} has no attribute {module!r}")
    return SimpleNamespace(**{name: getattr(bundle, name) for name in WORKFLOWS[module]})
