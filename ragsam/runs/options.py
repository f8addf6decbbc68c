"""Every option of the bundles: its type, default, meaning, and the parts of a config that its value goes to.

This is their one home. The bundles' configs, what `--set` takes, `ragsam train --options` and docs/reference/options.md
are made from it: `python -m ragsam.runs.write_bundles` after a change. An option is at the top of each config that uses
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

_SHARE = {"minimum": 0, "maximum": 1}
_FROM_0, _FROM_1, _ABOVE_0 = {"minimum": 0}, {"minimum": 1}, {"exclusiveMinimum": 0}
_ON_OFF = {"type": "boolean"}
_LOW_RANK = {
    "rank": {"type": "integer", **_FROM_1},
    "alpha": {"type": ["number", "null"], **_ABOVE_0},
    "dropout": {"type": "number", **_SHARE},
}
_LORA = {
    **_LOW_RANK,
    "targets": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": ["q", "k", "v", "proj", "mlp"]}},
    "blocks": {"type": ["array", "null"], "items": {"type": "integer", **_FROM_0}},
}
_ADAPTER = {**dict.fromkeys(("space", "mlp", "depth", "positions"), _ON_OFF), "ratio": {"type": "number", **_ABOVE_0}}
_FREQUENCY = {
    "rate": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "reduction": {"type": "integer", **_FROM_1},
    "as_published": _ON_OFF,
}
#: So that two evaluations side by side, with and without retrieval, do not write over each other.
_OF_ITS_OWN = " + ('' if @retrieval else '-without-retrieval')"
#: The folder of the packaged bundles, their template and the recipes.
BUNDLES = Path(str(resources.files("ragsam.bundles")))


def option(default: Any, line: str, *feeds: str, text: str = "", **limits: Any) -> Any:
    """Declare an option as the field of a group.

    Args:
        default: of the type of the field.
        line: what it is, in a line.
        feeds: what takes its value: a part by its `_target_`, as `Retriever`, or by its name at the top of a config, as
            `preparation`; with the argument's name where that is another, as `VolumeInferer.shift`. An option may also
            be used by the templates' own wiring.
        text: what more there is to say.
        limits: of its value, or of the items of a list, by the keywords of JSON Schema: minimum, exclusiveMinimum,
            maximum, enum; of the list itself minItems, maxItems; of a mapping's entries `properties`.
    """
    metadata = {"line": line, "feeds": feeds, "text": text, "limits": limits}
    return field(default_factory=lambda: default, metadata=metadata)


class Files:
    """Where things are."""

    dataset_dir: str = option(".", "folder of the datalist")
    datalist: str = option("$@dataset_dir + '/datalist.json'", "the cases, see `ragsam prepare`")
    pseudo_labels: str | None = option(
        None,
        "datalist of volumes whose labels a network wrote, learnt from beside the training cases",
        "pseudo_cases.path",
        text="`ragsam train --unlabelled` writes it and sets it.",
    )
    section: str = option("test", "of the datalist, to segment")
    card: str = option("$@bundle_root + '/configs/card.yaml'", "of the data set: a packaged card's name, or a file")
    weights: str = option("$@bundle_root + '/models/model.safetensors'", "the trained weights")
    bank: str = option("$@bundle_root + '/bank'", "the support bank")
    log: str = option("$@bundle_root + '/log.csv'", "a row a validation", "History.path")
    checkpoints: str = option(
        "$@bundle_root + '/checkpoints'", "what a killed training goes on from", "Checkpoints.folder"
    )
    board: str | None = option("$@bundle_root + '/tensorboard'", "null: nothing for TensorBoard", "Board.folder")
    mlflow: str | None = option(
        None, "an MLflow server's address, or sqlite:///FILE, to send the training to", "MLflowLog.tracking_uri"
    )
    output_dir: str = option(f"$@bundle_root + '/predictions'{_OF_ITS_OWN}", "of the label volumes")
    ensemble: list[str] = option([], "other runs, whose probabilities are averaged with this one's", "Ensemble.runs")
    uncertainty: bool = option(False, "writes uncertainty/CASE.nii.gz too")
    probabilities: bool = option(False, "writes probabilities/CASE/ORGAN.nii.gz too")
    evaluation_dir: str = option(
        f"$@bundle_root + '/evaluation'{_OF_ITS_OWN}", "metrics.json, metrics.csv, report.html"
    )
    baseline: str | None = option(
        None, "metrics.json of another evaluation of the same cases, to compare with", "EvaluationReport"
    )


class Network:
    """The network."""

    base: str | None = option(
        None,
        "weights of a SAM to tune: a file (.pth) or a name of `ragsam bases`; null trains a whole network from scratch",
        *("Segmenter", "network_of_weights"),
        text="The image encoder of base weights is frozen; what tunes it, the decoder and the detail branch train. "
        "A name sets `backbone`, `patch_size`, `normalisation` and `context_slices` as these weights were trained, "
        "where they are not set.",
    )
    start: str | None = option(
        None, "weights to begin with, of `ragsam import` or of another run; null begins with the base alone"
    )
    backbone: str = option(
        "vit_tiny",
        "image encoder: vit_tiny, vit_t (LiteMedSAM, MobileSAM), vit_b, vit_l or vit_h",
        "Segmenter",
        enum=["vit_tiny", "vit_t", "vit_b", "vit_l", "vit_h"],
    )
    peft: str | list[str] | None = option(
        None,
        "null: the bundle's own; or lora, decoder_lora, adapter, frequency, several as a list",
        "Segmenter",
        text="What is named here tunes the network, in place of what the bundle has options for; each with its options "
        "below, or where these are null with its usual ones.",
    )
    lora: dict | None = option(
        None,
        "low-rank updates of the encoder: rank, alpha, targets (q, k, v, proj, mlp), blocks, dropout",
        "Segmenter",
        text="`--set lora.rank=8` sets one entry and leaves the others.",
        properties=_LORA,
        additionalProperties=False,
    )
    decoder_lora: dict | None = option(
        None,
        "the same in the mask decoder's attention: rank, alpha, dropout",
        "Segmenter",
        properties=_LOW_RANK,
        additionalProperties=False,
    )
    adapter: dict | None = option(
        None,
        "adapters in every block: space, mlp, depth, ratio",
        "Segmenter",
        text="`adapter.depth=true` lets neighbouring slices attend to each other; `context_slices` says how many.",
        properties=_ADAPTER,
        additionalProperties=False,
    )
    frequency: dict | None = option(
        None,
        "prompts from the image's high frequencies: rate, reduction",
        "Segmenter",
        properties=_FREQUENCY,
        additionalProperties=False,
    )
    full_tuning: bool = option(False, "with base weights: train all of them, not just what is added", "Segmenter")
    detail: bool = option(True, "a branch at full resolution, for small organs", "Segmenter")
    fusion: str | None = option(
        "vote_product",
        "also label_prior, joined by +; null: no retrieval",
        "Segmenter",
    )
    prompts: str | None = option(
        None,
        "trained: the network answers prompts too; base: SAM's own answers, as the base weights have them",
        "Segmenter",
        enum=["trained", "base"],
    )


class Slices:
    """Slices, and how whole volumes are seen."""

    image_size: int = option(
        64,
        "pixels; larger slices are seen through windows of this size",
        *("preparation", "Segmenter", "SliceDataset", "VolumeInferer"),
        text="Where it is not set, `ragsam train` takes the smallest multiple of 16 that holds every training slice, "
        "512 at most.",
        minimum=16,
        maximum=4096,
    )
    slice_axis: int = option(
        2,
        "what the slices lie across: 0 sagittal, 1 coronal, 2 axial",
        *("preparation", "preprocessing", "augmentation", "VolumeInferer", "Ensemble", "pseudo_cases"),
        enum=[0, 1, 2],
    )
    context_slices: int = option(
        1,
        "neighbouring slices on each side as channels; 0 repeats the slice",
        *("preparation", "SliceDataset", "VolumeInferer"),
        minimum=0,
        maximum=32,
    )
    context_distance_mm: float | None = option(
        None,
        "from one channel to the next; null takes adjacent slices",
        *("preparation", "SliceDataset", "VolumeInferer"),
        **_ABOVE_0,
    )
    spacing_mm: list[float] | None = option(
        None,
        "spacing [x, y] within a slice to resample to; null keeps the image's own",
        *("preparation", "preprocessing"),
        minItems=2,
        maxItems=2,
        **_ABOVE_0,
    )
    test_shift: int = option(
        0,
        "pixels; whole volumes are seen at five positions this far apart and averaged, for five times the time",
        "VolumeInferer.shift",
        minimum=0,
        maximum=4096,
    )
    test_mirror: bool = option(
        False, "one more look, at the mirrored slices, left and right organs swapped back", "VolumeInferer.mirror"
    )
    test_scales: list[float] = option(
        [],
        "one more look for each, at slices so many times as large: [0.9, 1.1]",
        "VolumeInferer.scales",
        minimum=0.5,
        maximum=2,
    )


class Retrieval:
    """Retrieval."""

    retrieval: bool = option(True, "neighbours from the bank steer the decoder")
    neighbours: int = option(24, "how many slices of other patients are found for each", "Retriever", **_FROM_1)
    descriptor: str = option(
        "centred",
        "what slices are found by: centred, thumbnail or embedding",
        "Retriever",
        enum=["centred", "thumbnail", "embedding"],
    )
    carry: bool = option(
        True,
        "carries neighbours' labels over to where the slice shows the same; false: pixel on pixel",
        "Retriever",
    )


class Augmentation:
    """Augmentation: the probability of each for a training slice."""

    affine: float = option(0.9, "turned, scaled and moved", "augmentation", **_SHARE)
    contrast: float = option(0.3, "gamma", "augmentation", **_SHARE)
    intensity: float = option(0.3, "scaled and shifted", "augmentation", **_SHARE)
    noise: float = option(0.3, "Gaussian", "augmentation", **_SHARE)
    elastic: float = option(0.0, "bent", "augmentation", **_SHARE)
    low_resolution: float = option(0.0, "coarser, and enlarged again", "augmentation", **_SHARE)
    mirror: bool = option(
        False, "mirrors half of the slices and swaps the card's left and right labels", "augmentation"
    )


class Loss:
    """Loss."""

    dice_weight: float = option(1.0, "of the Dice loss", "PartialDiceCELoss", **_FROM_0)
    cross_entropy_weight: float = option(1.0, "of the cross entropy", "PartialDiceCELoss", **_FROM_0)
    class_weights: list[float] | None = option(
        None, "a number a class, background first; null weighs all alike", "PartialDiceCELoss", **_FROM_0
    )


class Training:
    """Training."""

    epochs: int = option(20, "how many", "SupervisedTrainer.max_epochs", **_FROM_1)
    steps_per_epoch: int = option(50, "batches in each", **_FROM_1)
    batch_size: int = option(32, "slices a step; `--fit-batch` finds the largest", "DataLoader", **_FROM_1)
    learning_rate: float = option(0.001, "the highest of the schedule", "AdamW.lr", "make_schedule", **_FROM_0)
    schedule: str = option(
        "one_cycle",
        "warm_polynomial is SAMed's; cosine falls to 0; constant stays",
        "make_schedule.name",
        enum=["one_cycle", "warm_polynomial", "cosine", "constant"],
    )
    weight_decay: float = option(0.05, "of AdamW", "AdamW", **_FROM_0)
    background_share: float = option(0.15, "of the training slices, without any organ", **_SHARE)
    class_balanced: bool = option(True, "every organ is in as many of the others; false: as it occurs")
    validate_every: int = option(4, "epochs; the last one is always validated", "Validation.interval", **_FROM_1)
    patience: int | None = option(
        None,
        "validations in a row without a better score that end a training; null trains all epochs",
        "EarlyStop",
        **_FROM_1,
    )
    frozen_from: int | None = option(
        None,
        "epoch from which the image encoder is frozen and its embeddings kept; null: it trains to the end",
        *("FrozenEncoder.first_epoch", "TrainingRetrieval"),
        text="With base weights, 1 trains the decoder alone, on embeddings that are kept.",
        **_FROM_1,
    )
    accumulation_steps: int = option(
        1, "batches whose gradients are added up before a step", "SupervisedTrainer", **_FROM_1
    )
    seed: int = option(
        0, "of everything that is drawn", "FrozenEncoder", "EpochSeeds", "set_determinism", minimum=0, maximum=2**32 - 1
    )
    resume: bool = option(False, "go on after the last finished epoch", "Checkpoints")


class Machine:
    """The machine."""

    device: str = option("$torch.device('cuda' if torch.cuda.is_available() else 'cpu')", "cpu, cuda, cuda:1")
    precision: str = option(
        "auto",
        "of the network's arithmetic: float32, bfloat16, float16, or int8 to segment on a CPU; "
        "auto: bfloat16 on a GPU, float32 on a CPU",
        *("PromptedInferer", "VolumeInferer", "scales_gradients"),
        enum=["auto", "float32", "bfloat16", "float16", "int8"],
    )
    workers: int = option(
        0, "processes that prepare slices beside the main one", "DataLoader.num_workers", minimum=0, maximum=1024
    )
    cache_gb: float = option(4.0, "bound of the volumes kept in memory, for each process", "SliceDataset", **_FROM_0)


class Expert:
    """For experts."""

    patch_size: int | None = option(
        None, "of the image encoder, pixels; null: the backbone's own", "Segmenter", **_FROM_1
    )
    normalisation: str = option(
        "unit",
        "of slices; sam: as SAM's own photographs; minmax: each slice from its minimum to its maximum",
        "Segmenter",
        enum=["unit", "sam", "minmax"],
    )
    mask_tokens: int | None = option(
        None,
        "null: a token a class; 4, for one organ: SAM's own masks, the first being the organ's",
        "Segmenter",
        minimum=2,
    )
    enlarged: str = option(
        "logits",
        "what is brought to the slice's size: logits or, as MedSAM, probabilities",
        "Segmenter",
        enum=["logits", "probabilities"],
    )
    coarse_training: bool = option(
        False, "the loss at the decoder's own size, as SAMed; needs detail: false", "Segmenter"
    )
    checkpointing: str | None = option(
        None,
        "less memory for more time: attention, mlp or blocks, worked out again when gradients are",
        "Segmenter",
        enum=["attention", "mlp", "blocks"],
    )
    store: str = option(
        "auto",
        "how the bank is searched: auto, by its size, or exact, hnsw or ivfpq",
        "Retriever",
        enum=["auto", "exact", "hnsw", "ivfpq"],
    )
    supports_withheld: float = option(
        0.0,
        "share of training slices that see no supports; each is learnt without them too",
        "TrainingRetrieval.withheld",
        **_SHARE,
    )
    supports_wrong: float = option(0.1, "share that see another slice's", "TrainingRetrieval.wrong", **_SHARE)
    dice_squared: bool = option(False, "SAMed's is 0.8 and 0.2, squared, with coarse_training", "PartialDiceCELoss")
    prompted_weight: float = option(
        1.0,
        "with `prompts: trained`, of the loss of prompted objects beside that of the classes",
        "PromptedLoss.weight",
        **_FROM_0,
    )
    frozen_views: int = option(
        4, "altered copies of a slice that are drawn once the encoder is frozen", "FrozenEncoder.views", **_FROM_1
    )
    frozen_gb: float = option(
        4.0, "bound of the embeddings kept in memory, for each process", "FrozenEncoder.limit_gb", **_FROM_0
    )
    untrained: dict = option(
        {},
        "the network until there are weights, which say what network they are of",
        *("network_of_weights", "fusion_of_weights"),
        text="As the options of the network are in training; in inference and evaluation they stand here alone.",
    )
    channels_last: bool = option(False, "weights of convolutions with channels last", "place")
    compiled: bool = option(False, "have torch compile the image encoder; its first batches take minutes", "place")


#: In the order in which they stand in a config.
GROUPS = tuple(map(dataclass, (Files, Network, Slices, Retrieval, Augmentation, Loss, Training, Machine, Expert)))


#: What JSON Schema calls the types of values.
TYPES = {
    **{bool: "boolean", int: "integer", float: "number", str: "string"},
    **{dict: "object", list: "array", NoneType: "null"},
}


@dataclass(frozen=True)
class Option:
    """An option as it was declared.

    Attributes:
        kinds: the types of its value; one of them is `NoneType` where it may be null.
        group: title of its group.
        limits: see `option`.
    """

    name: str
    kinds: tuple[Any, ...]
    default: Any
    line: str
    text: str
    feeds: tuple[str, ...]
    group: str
    limits: dict[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> dict[str, Any]:
        """What its value must be, as a JSON schema."""
        own = {key: value for key, value in self.limits.items() if key.endswith("Items")}
        limits = {key: value for key, value in self.limits.items() if key not in own}
        types = [TYPES[get_origin(kind) or kind] for kind in self.kinds]
        if "enum" in limits:
            return {"enum": [*limits["enum"], *([None] if "null" in types else [])]}
        for kind in self.kinds:
            if get_args(kind):
                return {"type": types, **own, "items": {"type": TYPES[get_args(kind)[0]], **limits}}
        return {"type": types, **limits}


def _declared() -> dict[str, Option]:
    found = {}
    for group in GROUPS:
        types = get_type_hints(group)
        title = group.__doc__.removesuffix(".")
        for one in fields(group):
            kind = types[one.name]
            kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
            found[one.name] = Option(one.name, kinds, one.default_factory(), group=title, **one.metadata)
    return found


OPTIONS = _declared()


def by_group(options: Iterable[Option]) -> Iterator[tuple[str, Iterator[Option]]]:
    """Return the groups of options, in their order, each with its title."""
    return groupby(options, key=attrgetter("group"))


def untrained_network(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of `untrained`: of options by name those of the network, without its base and image size."""
    names = [name for name, option in OPTIONS.items() if "Segmenter" in option.feeds]
    return {name: values[name] for name in names if name in values and name not in ("base", "image_size")}
