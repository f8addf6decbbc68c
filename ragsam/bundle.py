"""The names that bundle configs call: `ragsam.bundle.NAME` stays, wherever in the package its code lies."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: By name, the module that it is taken from when a config first asks for it.
HOMES = {
    "Progress": "ragsam.console.engine_progress",
    "keep_freed_memory": "ragsam.console.malloc",
    "load_card": "ragsam.data.cards.load",
    "load_datalist": "ragsam.data.datalist",
    "pseudo_cases": "ragsam.data.pseudo_labels",
    "ReadAheadLoader": "ragsam.data.read_ahead",
    "SliceDataset": "ragsam.data.slices",
    "VolumeDataset": "ragsam.data.volumes",
    "GatheredRetrieval": "ragsam.inference.distributed_retrieval",
    "Ensemble": "ragsam.inference.ensemble",
    "EvaluationReport": "ragsam.inference.evaluation",
    "InfererRetrieval": "ragsam.inference.inferer_retrieval",
    "Provenance": "ragsam.inference.provenance",
    "VolumeInferer": "ragsam.inference.volume_inferer",
    "prepare_volumes": "ragsam.inference.volume_inferer",
    "VolumeRetrieval": "ragsam.inference.volume_retrieval",
    "LabelVolumeWriter": "ragsam.inference.volume_writer",
    "scales_gradients": "ragsam.networks.precision",
    "Segmenter": "ragsam.networks.segmenter",
    "Retriever": "ragsam.retrieval.retriever",
    "fusion_of_weights": "ragsam.runs.trained",
    "network_of_weights": "ragsam.runs.trained",
    "WeightsLoader": "ragsam.runs.weights",
    "BestWeights": "ragsam.training.best_weights",
    "Checkpoints": "ragsam.training.checkpoints",
    "History": "ragsam.training.csv_log",
    "place": "ragsam.training.device",
    "GatheredLoss": "ragsam.training.distributed",
    "OwnDraws": "ragsam.training.distributed",
    "distributed": "ragsam.training.distributed",
    "join_processes": "ragsam.training.distributed",
    "own_device": "ragsam.training.distributed",
    "own_share": "ragsam.training.distributed",
    "part_processes": "ragsam.training.distributed",
    "process_count": "ragsam.training.distributed",
    "EarlyStop": "ragsam.training.early_stop",
    "EpochSeeds": "ragsam.training.epoch_seeds",
    "FrozenEncoder": "ragsam.training.frozen_encoder",
    "LossGuard": "ragsam.training.loss_guard",
    "PartialDiceCELoss": "ragsam.training.losses",
    "RunMetadata": "ragsam.training.metadata_handler",
    "MLflowLog": "ragsam.training.mlflow_log",
    "OrganDice": "ragsam.training.organ_dice",
    "PromptDrawing": "ragsam.training.prompted_training",
    "PromptedInferer": "ragsam.training.prompted_training",
    "PromptedLoss": "ragsam.training.prompted_training",
    "prepare_prompted_slices": "ragsam.training.prompted_training",
    "make_schedule": "ragsam.training.schedules",
    "StartWeights": "ragsam.training.start_weights",
    "Board": "ragsam.training.tensorboard_log",
    "TrainingRetrieval": "ragsam.training.training_retrieval",
    "Validation": "ragsam.training.validation",
    "VoteWeight": "ragsam.training.vote_weight",
    "augmentation": "ragsam.transforms.chains",
    "postprocessing": "ragsam.transforms.chains",
    "preprocessing": "ragsam.transforms.chains",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(HOMES)
