"""RAG-SAM: retrieval-steered Segment Anything for 3D medical volumes.

import ragsam

run = ragsam.load("runs/liver")
result = run.segment("ct.nii.gz")
result.labels, result.volumes_ml, result.probabilities("liver"), result.neighbours, result.novelty
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragsam.api.evaluate import evaluate
    from ragsam.api.index import index_run as index
    from ragsam.api.result import Result
    from ragsam.api.run import Run, load
    from ragsam.api.segment import segment_with_run as segment
    from ragsam.api.train import train
    from ragsam.console.reporter import set_reporter
    from ragsam.data.datalist import Case
    from ragsam.data.preparation.prepare import prepare
    from ragsam.errors import InputError
    from ragsam.prompting.clicks import Box, Click

__version__ = "0.1.0"
__all__ = [
    "Box",
    "Case",
    "Click",
    "InputError",
    "Result",
    "Run",
    "evaluate",
    "index",
    "load",
    "prepare",
    "segment",
    "set_reporter",
    "train",
]

#: By name, the module that it is taken from when it is first asked for, and what it is called there.
_HOMES = {
    "Box": "ragsam.prompting.clicks:Box",
    "Case": "ragsam.data.datalist:Case",
    "Click": "ragsam.prompting.clicks:Click",
    "InputError": "ragsam.errors:InputError",
    "Result": "ragsam.api.result:Result",
    "Run": "ragsam.api.run:Run",
    "evaluate": "ragsam.api.evaluate:evaluate",
    "index": "ragsam.api.index:index_run",
    "load": "ragsam.api.run:load",
    "prepare": "ragsam.data.preparation.prepare:prepare",
    "segment": "ragsam.api.segment:segment_with_run",
    "set_reporter": "ragsam.console.reporter:set_reporter",
    "train": "ragsam.api.train:train",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())  # who uses the package says where its log goes


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
