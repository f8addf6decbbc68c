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
_ADAPTER = {
    **dict.fromkeys(("space", "mlp", "depth", "positions", "normed_padding"), _ON_OFF),
    "ratio": {"type": "number", **_ABOVE_0},
}
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
    """Files and folders."""

    dataset_dir: str = option(".", "folder of the datalist")
    datalist: str = option("$@dataset_dir + '/datalist.json'", "the cases, see `ragsam prepare`")
    pseudo_labels: str | None = option(
        None,
        "datalist of pseudo-labelled volumes that train beside the labelled cases",
        "pseudo_cases.path",
        text="`ragsam train --unlabelled` writes it and sets it.",
    )
    section: str = option("test", "section of the datalist to segment")
    card: str = option(
        "$@bundle_root + '/configs/card.yaml'", "card of the data set: a packaged card's name, or a file"
    )
    weights: str = option("$@bundle_root + '/models/model.safetensors'", "the trained weights")
    bank: str = option("$@bundle_root + '/bank'", "the support bank")
    log: str = option("$@bundle_root + '/log.csv'", "a CSV file with a row for every validation", "History.path")
    checkpoints: str = option(
        "$@bundle_root + '/checkpoints'",
        "folder of the state from which a stopped training resumes",
        "Checkpoints.folder",
    )
    board: str | None = option(
        "$@bundle_root + '/tensorboard'", "folder of the TensorBoard log; null writes none", "Board.folder"
    )
    mlflow: str | None = option(
        None, "an MLflow server's address, or sqlite:///FILE, to send the training to", "MLflowLog.tracking_uri"
    )
    output_dir: str = option(f"$@bundle_root + '/predictions'{_OF_ITS_OWN}", "folder of the label volumes")
    ensemble: list[str] = option([], "other runs whose probabilities are averaged with this run's", "Ensemble.runs")
    uncertainty: bool = option(False, "also write uncertainty/CASE.nii.gz")
    probabilities: bool = option(False, "also write probabilities/CASE/ORGAN.nii.gz")
    evaluation_dir: str = option(
        f"$@bundle_root + '/evaluation'{_OF_ITS_OWN}", "folder of metrics.json, metrics.csv and report.html"
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
        None, "weights to start from: a file of `ragsam import`, or another run; null starts from the base alone"
    )
    backbone: str = option(
        "vit_tiny",
        "image encoder: vit_tiny; vit_t (LiteMedSAM, MobileSAM); vit_b, vit_l, vit_h (SAM); hiera_tiny, hiera_small, "
        "hiera_base_plus, hiera_large (SAM 2, MedSAM2)",
        "Segmenter",
        enum=[
            *("vit_tiny", "vit_t", "vit_b", "vit_l", "vit_h"),
            *("hiera_tiny", "hiera_small", "hiera_base_plus", "hiera_large"),
        ],
    )
    peft: str | list[str] | None = option(
        None,
        "what tunes the network: lora, decoder_lora, adapter, frequency, or a list; null: the bundle's own",
        "Segmenter",
        text="Replaces what the bundle tunes by default. Each takes its options from below, or its usual ones where "
        "these are null.",
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
        text="`adapter.depth=true` lets neighbouring slices attend to each other; `context_slices` sets how many.",
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
    full_tuning: bool = option(False, "train all base weights, not only the added parts", "Segmenter")
    detail: bool = option(True, "add convolutions at full resolution to the decoder, for small organs", "Segmenter")
    fusion: str | None = option(
        "vote_product",
        "how the vote joins the network: vote_product, label_prior, or both joined by +; null: no retrieval",
        "Segmenter",
    )
    prompts: str | None = option(
        None,
        "trained: the network learns to answer prompts; base: SAM's own answers from the base weights",
        "Segmenter",
        enum=["trained", "base"],
    )


class Slices:
    """Slices and whole volumes."""

    image_size: int = option(
        64,
        "side of the network's input, pixels; larger slices are processed in overlapping windows",
        *("preparation", "Segmenter", "SliceDataset", "VolumeInferer"),
        text="If it is not set, `ragsam train` takes the smallest multiple of 16 that holds every training slice, "
        "512 at most.",
        minimum=16,
        maximum=4096,
    )
    slice_axis: int = option(
        2,
        "orientation of the slices: 0 sagittal, 1 coronal, 2 axial",
        *("preparation", "preprocessing", "augmentation", "VolumeInferer", "Ensemble", "pseudo_cases"),
        enum=[0, 1, 2],
    )
    slice_layout: str = option(
        "ras",
        "rows and columns of a slice: ras, [X, Y] of RAS; file, as the file stores them, [Y, X]",
        *("preparation", "preprocessing"),
        text="`file` is how SAMed and MedSAM were trained; weights of `ragsam import` bring their layout along.",
        enum=["ras", "file"],
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
        "distance between neighbouring channels; null takes adjacent slices",
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
    samed_size: int | None = option(
        None,
        "224: whole volumes are seen as by SAMed's own test; null: slices as they are",
        "VolumeInferer",
        text="Every slice is resized to this size and from there to `image_size`, by cubic splines; its labels are "
        "resized back by the nearest neighbour. Needs `context_slices` 0 and no retrieval, ensemble, maps or "
        "test-time augmentation.",
        minimum=16,
        maximum=4096,
    )
    test_shift: int = option(
        0,
        "test-time augmentation: average over four copies shifted by so many pixels, for five times the time",
        "VolumeInferer.shift",
        minimum=0,
        maximum=4096,
    )
    test_mirror: bool = option(
        False,
        "test-time augmentation: average with a mirrored copy, left and right organs swapped back",
        "VolumeInferer.mirror",
    )
    test_scales: list[float] = option(
        [],
        "test-time augmentation: average with a copy scaled by each factor: [0.9, 1.1]",
        "VolumeInferer.scales",
        minimum=0.5,
        maximum=2,
    )


class Retrieval:
    """Retrieval."""

    retrieval: bool = option(True, "fuse the vote of the bank's neighbours with the network")
    neighbours: int = option(24, "slices of other patients that vote for each slice", "Retriever", **_FROM_1)
    descriptor: str = option(
        "centred",
        "by what similar slices are found: centred, thumbnail or embedding",
        "Retriever",
        enum=["centred", "thumbnail", "embedding"],
    )
    carry: bool = option(
        True,
        "transfer neighbours' labels by matching image patches; false: copy them pixel by pixel",
        "Retriever",
    )


class Augmentation:
    """Augmentation: the probability of each for a training slice."""

    affine: float = option(0.9, "rotate, scale and shift", "augmentation", **_SHARE)
    contrast: float = option(0.3, "change gamma", "augmentation", **_SHARE)
    intensity: float = option(0.3, "scale and shift intensities", "augmentation", **_SHARE)
    noise: float = option(0.3, "add Gaussian noise", "augmentation", **_SHARE)
    elastic: float = option(0.0, "deform elastically", "augmentation", **_SHARE)
    low_resolution: float = option(0.0, "downsample and enlarge again", "augmentation", **_SHARE)
    mirror: bool = option(False, "mirror half of the slices and swap the card's left and right labels", "augmentation")


class Loss:
    """Loss."""

    dice_weight: float = option(1.0, "weight of the Dice loss", "PartialDiceCELoss", **_FROM_0)
    cross_entropy_weight: float = option(1.0, "weight of the cross entropy", "PartialDiceCELoss", **_FROM_0)
    class_weights: list[float] | None = option(
        None, "one weight per class, background first; null: all equal", "PartialDiceCELoss", **_FROM_0
    )


class Training:
    """Training."""

    epochs: int = option(20, "epochs of the training", "SupervisedTrainer.max_epochs", **_FROM_1)
    steps_per_epoch: int = option(50, "batches per epoch", **_FROM_1)
    batch_size: int = option(32, "slices per step; `--fit-batch` finds the largest that fits", "DataLoader", **_FROM_1)
    learning_rate: float = option(0.001, "peak of the learning rate schedule", "AdamW.lr", "make_schedule", **_FROM_0)
    schedule: str = option(
        "one_cycle",
        "one_cycle; warm_polynomial, as SAMed; cosine, to 0; or constant",
        "make_schedule.name",
        enum=["one_cycle", "warm_polynomial", "cosine", "constant"],
    )
    weight_decay: float = option(0.05, "weight decay of AdamW", "AdamW", **_FROM_0)
    background_share: float = option(0.15, "share of training slices without any organ", **_SHARE)
    class_balanced: bool = option(True, "draw slices so that every organ is in equally many; false: as they occur")
    validate_every: int = option(
        4, "epochs between validations; the last epoch is always validated", "Validation.interval", **_FROM_1
    )
    patience: int | None = option(
        None,
        "early stopping: end after so many validations without improvement; null trains all epochs",
        "EarlyStop",
        **_FROM_1,
    )
    frozen_from: int | None = option(
        None,
        "epoch from which the image encoder is frozen and its embeddings are cached; null: never",
        *("FrozenEncoder.first_epoch", "TrainingRetrieval"),
        text="With base weights, 1 trains the decoder alone on cached embeddings.",
        **_FROM_1,
    )
    accumulation_steps: int = option(
        1, "batches whose gradients are accumulated before a step", "SupervisedTrainer", **_FROM_1
    )
    seed: int = option(0, "random seed", "FrozenEncoder", "EpochSeeds", "set_determinism", minimum=0, maximum=2**32 - 1)
    resume: bool = option(False, "continue after the last finished epoch", "Checkpoints")


class Machine:
    """The machine."""

    device: str = option("$torch.device('cuda' if torch.cuda.is_available() else 'cpu')", "cpu, cuda, cuda:1")
    precision: str = option(
        "auto",
        "arithmetic of the network: float32, bfloat16, float16, or int8 to segment on a CPU; "
        "auto: bfloat16 on a GPU, float32 on a CPU",
        *("PromptedInferer", "VolumeInferer", "scales_gradients"),
        enum=["auto", "float32", "bfloat16", "float16", "int8"],
    )
    workers: int = option(
        0, "processes that prepare slices beside the main one", "DataLoader.num_workers", minimum=0, maximum=1024
    )
    cache_gb: float = option(4.0, "limit of the volumes cached in memory, per process", "SliceDataset", **_FROM_0)


class Expert:
    """For experts."""

    patch_size: int | None = option(
        None, "patch size of the image encoder, pixels; null: the backbone's own", "Segmenter", **_FROM_1
    )
    normalisation: str = option(
        "unit",
        "normalisation of slices: unit, 0 to 1; sam, as SAM's photographs; minmax, by each slice's range",
        "Segmenter",
        enum=["unit", "sam", "minmax"],
    )
    mask_tokens: int | None = option(
        None,
        "null: one token per class; 4, for one organ: SAM's own masks, the first being the organ's",
        "Segmenter",
        minimum=2,
    )
    enlarged: str = option(
        "logits",
        "what is enlarged to the slice's size: logits or, as MedSAM, probabilities",
        "Segmenter",
        enum=["logits", "probabilities"],
    )
    efficient_decoder: str | None = option(
        None,
        "relu or gelu: EfficientSAM's mask decoder with that activation; null: SAM's",
        "Segmenter",
        text="As Medical-SAM-Adapter has it from 2024-01 on; weights of `ragsam import` bring it along.",
        enum=["relu", "gelu"],
    )
    coarse_training: bool = option(
        False, "compute the loss at the decoder's own size, as SAMed; needs detail: false", "Segmenter"
    )
    checkpointing: str | None = option(
        None,
        "activation checkpointing, less memory for more time: attention, mlp or blocks",
        "Segmenter",
        enum=["attention", "mlp", "blocks"],
    )
    store: str = option(
        "auto",
        "index of the bank: auto, by its size, or exact, hnsw or ivfpq",
        "Retriever",
        enum=["auto", "exact", "hnsw", "ivfpq"],
    )
    supports_withheld: float = option(
        0.0,
        "share of training slices without supports, of a fusion that learns",
        "TrainingRetrieval.withheld",
        **_SHARE,
    )
    supports_wrong: float = option(
        0.1,
        "share of training slices with the supports of another slice, of a fusion that learns",
        "TrainingRetrieval.wrong",
        **_SHARE,
    )
    dice_squared: bool = option(
        False,
        "square the denominator of the Dice loss, as SAMed (with weights 0.8 and 0.2, and coarse_training)",
        "PartialDiceCELoss",
    )
    prompted_weight: float = option(
        1.0,
        "with `prompts: trained`: weight of the prompted objects' loss beside that of the classes",
        "PromptedLoss.weight",
        **_FROM_0,
    )
    frozen_views: int = option(
        4, "augmented copies of each slice once the encoder is frozen", "FrozenEncoder.views", **_FROM_1
    )
    frozen_gb: float = option(
        4.0, "limit of the embeddings cached in memory, per process", "FrozenEncoder.limit_gb", **_FROM_0
    )
    untrained: dict = option(
        {},
        "the network as long as the run has no weights; trained weights describe their own network",
        *("network_of_weights", "fusion_of_weights"),
        text="Holds the options of the network for inference and evaluation.",
    )
    channels_last: bool = option(False, "store the weights of convolutions with channels last", "place")
    compiled: bool = option(False, "compile the image encoder with torch; the first batches take minutes", "place")


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
