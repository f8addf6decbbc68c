"""The names of the first layout, for the configs of runs that were made with it: `ragsam.workflows.MODULE.NAME`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ragsam import bundle
from ragsam.errors import InputError
from ragsam.runs.earlier_names import WORKFLOWS


class _Preparing:
    """A handler of an evaluator whose config does not say how what the handler puts into batches is passed on."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Any) -> None:
        """Register with an evaluator."""
        engine.prepare_batch = bundle.prepare_volumes
        self.handler.attach(engine)


def _volume_retrieval(network: Any, retriever: Any, **options: Any) -> _Preparing:
    return _Preparing(bundle.VolumeRetrieval(network, retriever, **options))


def _gathered_retrieval(network: Any, retriever: Any, **options: Any) -> _Preparing:
    return _Preparing(bundle.GatheredRetrieval(network, retriever, **options))


def _ensemble(inferer: Any, runs: Any, cases: Any, **options: Any) -> _Preparing:
    """The run's own inferer was named, to be handed what averages."""
    return _Preparing(bundle.Ensemble(runs, cases, **options))


def _own_retrieval(retriever: Any, bank: Any, preparation: Any) -> Any:
    return bundle.InfererRetrieval(retriever, bank, preparation)


def _training_retrieval(*args: Any, first_epoch: int = 1, **options: Any) -> Any:
    """Neighbours could come later than with the first epoch.

    Raises:
        InputError: they were to.
    """
    if first_epoch != 1:
        raise InputError(f"retrieval_from: {first_epoch}; this was removed, since it changed little; set it to 1")
    return bundle.TrainingRetrieval(*args, **options)


def _board(folder: Any, validator: Any, colours: Any, retriever: Any = None) -> Any:
    """The retriever was named, of which the neighbours were read."""
    return bundle.Board(folder, validator, colours)


#: What is called otherwise today.
CHANGED = {
    "Board": _board,
    "Ensemble": _ensemble,
    "GatheredRetrieval": _gathered_retrieval,
    "OwnRetrieval": _own_retrieval,
    "TrainingRetrieval": _training_retrieval,
    "VolumeRetrieval": _volume_retrieval,
}


def __getattr__(module: str) -> SimpleNamespace:
    if module not in WORKFLOWS:
        raise AttributeError(f"module {__name__!r} has no attribute {module!r}")
    return SimpleNamespace(**{name: CHANGED.get(name) or getattr(bundle, name) for name in WORKFLOWS[module]})
