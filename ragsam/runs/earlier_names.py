"""What configs of the first layout name: runs that were made with it still open."""

from __future__ import annotations

#: By module of `ragsam.workflows` the names that were taken from it.
WORKFLOWS = {
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
TARGETS = frozenset(
    {
        "ragsam.data.read_ahead.ReadAheadLoader",
        "ragsam.data.slices.SliceDataset",
        "ragsam.data.volumes.VolumeDataset",
        "ragsam.networks.Segmenter",
        "ragsam.retrieval.Retriever",
        "ragsam.transforms.augmentation",
        "ragsam.transforms.postprocessing",
        "ragsam.transforms.preprocessing",
    }
).union(f"ragsam.workflows.{module}.{name}" for module, names in WORKFLOWS.items() for name in names)
#: Those that are not recognised by their syntax to compute alone.
EXPRESSIONS = frozenset(
    {
        "$import torch",
        "$from ragsam.data.cards import load_card",
        "$from ragsam.data.datalist import load_datalist",
        "$'memory' in str(@fusion)",
        "$'memory' in str(@steered_by)",
        "$@card_def.pieces if @keep_pieces else None",
        "$'vote_product' in str(@fusion)",
        "$not @retrieval or 'vote_product' not in str(@fusion)",
        "$dict((organ.value, organ.colour) for organ in @card_def.organs)",
    }
)
