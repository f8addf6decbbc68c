"""The names of the first layout, for the configs of runs that were made with it: `ragsam.workflows.MODULE.NAME`."""

from __future__ import annotations

from types import SimpleNamespace

from ragsam import bundle

#: By module of the first layout the names that configs took from it.
EARLIER = {
    "board": ("Board",),
    "checkpoint_handler": (
        "BestWeights",
        "WeightsLoader",
    ),
    "early_stop": ("EarlyStop",),
    "ensemble": ("Ensemble",),
    "epoch_seeds": ("EpochSeeds",),
    "freed_memory": ("keep_freed_memory",),
    "frozen_encoder": ("FrozenEncoder",),
    "gathered_retrieval": ("GatheredRetrieval",),
    "guarding": ("LossGuard",),
    "history": ("History",),
    "inferers": ("VolumeInferer",),
    "losses": ("PartialDiceCELoss",),
    "mlflow_log": ("MLflowLog",),
    "organ_dice": ("OrganDice",),
    "own_retrieval": ("OwnRetrieval",),
    "placing": ("place",),
    "precision": ("scales_gradients",),
    "processes": (
        "GatheredLoss",
        "OwnDraws",
        "distributed",
        "join_processes",
        "own_device",
        "own_share",
        "part_processes",
        "process_count",
    ),
    "progress": ("Progress",),
    "prompted_training": (
        "PromptDrawing",
        "PromptedInferer",
        "PromptedLoss",
        "prepare_prompted_slices",
    ),
    "provenance": ("Provenance",),
    "report_handler": ("EvaluationReport",),
    "resuming": ("Checkpoints",),
    "retrieval_handler": (
        "TrainingRetrieval",
        "VolumeRetrieval",
    ),
    "run_metadata": ("RunMetadata",),
    "schedules": ("make_schedule",),
    "start_weights": ("StartWeights",),
    "validation": ("Validation",),
    "volume_writer": ("LabelVolumeWriter",),
    "vote_weight": ("VoteWeight",),
}


def __getattr__(module: str) -> SimpleNamespace:
    if module not in EARLIER:
        raise AttributeError(f"module {__name__!r} has no attribute {module!r}")
    return SimpleNamespace(**{name: getattr(bundle, name) for name in EARLIER[module]})
