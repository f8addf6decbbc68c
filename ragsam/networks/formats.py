"""What published checkpoints say of their networks: the options of a `Segmenter` that holds them, found in the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ragsam.errors import InputError
from ragsam.networks.checkpoints import MASK_TOKENS, UNUSED_PARTS
from ragsam.networks.encoders import family_of
from ragsam.networks.hiera import SIZES
from ragsam.networks.sam import BACKBONES

#: Label volumes are of 8 bits.
MOST_CLASSES = 255

_HYPERNETWORK = re.compile(r"mask_decoder\.output_hypernetworks_mlps\.\d+\.layers\.0\.weight")
_UPDATE = re.compile(r"w_a_\d+")
_BLOCK = re.compile(r"image_encoder\.blocks\.\d+\.norm1\.weight")
_TABLE = re.compile(r"image_encoder\.blocks\.\d+\.attn\.(rel_\w+)")
_MLP = re.compile(r"mask_decoder\.transformer\.layers\.\d+\.mlp\.(lin1|layers\.0\.0)\.weight")
#: Of Medical-SAM-Adapter's code up to 2023-12 and from 2024-01 on: relative positions, and the decoder's MLPs.
_OF_2023 = {"rel_pos_h", "rel_pos_w", "lin1"}
_OF_2024 = {"rel_h", "rel_w", "layers.0.0"}
#: Where it cuts its windows, which decides what pads them: `norm1.bias` or zeros.
WINDOWS = ("before-norm", "after-norm")
_ADAPTERS = {"space": "Space", "mlp": "MLP"}
_DEPTH = re.compile(r"image_encoder\.blocks\.\d+\.Depth_Adapter\.D_fc[12]\.(weight|bias)")

_VITS = {name: size for name, size in BACKBONES.items() if size.family == "vit"}
_HIERAS = {(size.width, sum(size.stages)): name for name, size in SIZES.items()}
#: The image size that SAM 2 was trained at, pixels.
_SAM2_SIZE = 1024
_HIERA_BLOCK = re.compile(r"image_encoder\.trunk\.blocks\.\d+\.norm1\.weight")
#: TinyViTs by the size of the first kernel.
_TINY_VITS: dict[int, dict[str, Any]] = {
    1: {"patch_size": 4, "image_size": 256, "normalisation": "minmax"},
    3: {"patch_size": 16, "image_size": 1024, "normalisation": "sam"},
}

State = Mapping[str, Tensor]


def samed_options(state: State) -> dict[str, Any]:
    """Return the options of a network for SAMed's or SAMed_s's file: the image size is not in it."""
    _shape(state, "w_a_000", 2)
    backbones = {2 * size.depth: name for name, size in _VITS.items()}
    updates = _count(_UPDATE, state)
    if updates not in backbones:
        raise InputError(f"{updates} updates w_a_*, where SAMed has 24, 48 or 64 (ViT-B, L, H); check the file")
    backbone = backbones[updates]
    size = BACKBONES[backbone]
    options: dict[str, Any] = {"num_classes": _masks(state) - 1, "backbone": backbone}
    options["lora"] = {"rank": _narrow(state, "w_a_000", size.embed_dim), "targets": ["q", "v"]}
    if "sa_a_000" in state:
        options["decoder_lora"] = {"rank": _narrow(state, "sa_a_000", size.prompt_dim)}
    return options


def sam_options(state: State) -> dict[str, Any]:
    """Return the options of a network for a full SAM: one organ, whose mask is SAM's first."""
    family = family_of(state)
    if family == "hiera":
        options = {"image_size": _SAM2_SIZE, **hiera_options(state)}
    else:
        options = tiny_vit_options(state) if family == "tiny_vit" else vit_options(state)
    return {"num_classes": 1, "mask_tokens": _masks(state), **options}


def vit_options(state: State) -> dict[str, Any]:
    """Return the options of a network for a SAM's image encoder that is a ViT."""
    _, rows, columns, width = _shape(state, "image_encoder.pos_embed", 4)
    patch = _shape(state, "image_encoder.patch_embed.proj.weight", 4)[-1]
    depth = _count(_BLOCK, state)
    backbones = {(size.embed_dim, size.depth): name for name, size in _VITS.items()}
    backbone = backbones.get((width, depth))
    if backbone is None or rows != columns or not rows or not patch:
        raise InputError(
            f"an encoder of {depth} blocks, width {width} on {rows} x {columns} patches is not one of SAM's"
        )
    return {"backbone": backbone, "patch_size": patch, "image_size": rows * patch}


def tiny_vit_options(state: State) -> dict[str, Any]:
    """Return the options of a network for a TinyViT: its first kernel's size separates LiteMedSAM from MobileSAM.

    The image size is not in the file; it is what each was trained at.
    """
    kernel = _shape(state, "image_encoder.patch_embed.seq.0.c.weight", 4)[-1]
    if kernel not in _TINY_VITS:
        raise InputError(f"a first kernel of {kernel} pixels fits neither LiteMedSAM nor MobileSAM; check the file")
    return {"backbone": "vit_t", **_TINY_VITS[kernel]}


def hiera_options(state: State) -> dict[str, Any]:
    """Return the options of a network for the Hiera of a SAM 2 or MedSAM2 file; the image size is not in it."""
    width = _shape(state, "image_encoder.trunk.pos_embed", 4)[1]
    count = _count(_HIERA_BLOCK, state)
    if (width, count) not in _HIERAS:
        raise InputError(f"a Hiera of {count} blocks, width {width}, is not one of SAM 2's; check the file")
    return {"backbone": _HIERAS[width, count], "normalisation": "sam"}


def medsam_options(state: State) -> dict[str, Any]:
    """Return the options of a network for MedSAM's file: it takes the sigmoid before it enlarges a mask."""
    return {**sam_options(state), "enlarged": "probabilities"}


def medical_sam_adapter_options(
    state: State,
    *,
    image_size: int | None = None,
    normalisation: str | None = None,
    thd: bool | None = None,
    activation: str | None = None,
    windows: str | None = None,
) -> dict[str, Any]:
    """Return the options of a network for Medical-SAM-Adapter's state dict, of its code up to 2023-12 or from then on.

    Args:
        image_size, normalisation: of its training; a file from 2024-01 on says neither.
        thd: whether it was trained in 3D mode, as its argument of that name says. Every file has depth adapters, which
            only that mode uses, so the file does not say.
        activation: in the MLPs of the mask decoder's transformer, from 2024-01 on.
        windows: one of `WINDOWS`, from 2024-01 on; up to 2023-12 they are cut before the norm.

    Raises:
        InputError: a mixture of both, 3D mode, or what only the user can answer.
    """
    newer = _is_of_2024(state)
    options = sam_options(state)
    size = BACKBONES[options["backbone"]]
    adapter: dict[str, Any] = {"depth": False, "normed_padding": not newer or windows == "before-norm"}
    widths = []
    for kind, name in _ADAPTERS.items():
        key = f"image_encoder.blocks.0.{name}_Adapter.D_fc1.weight"
        adapter[kind] = key in state
        if key in state:
            widths.append(_narrow(state, key, size.embed_dim))
    if not widths:
        raise InputError("no adapters in it; a full SAM without them is imported as sam")
    adapter["ratio"] = widths[0] / size.embed_dim
    count = _count(_TABLE, state)
    if count != 2 * size.depth:
        raise InputError(f"{count} tables of relative positions in {size.depth} blocks; check the file")
    _require_2d(state, thd)
    options["adapter"] = adapter
    if not newer:
        if activation is not None or windows is not None:
            raise InputError("a file up to 2023-12 leaves no choice of --activation and --windows; leave them out")
        return options
    _require_answers(image_size, normalisation, windows, activation)
    return {**options, "efficient_decoder": activation, "positions": "bicubic"}


def _is_of_2024(state: State) -> bool:
    """Whether a Medical-SAM-Adapter file is of its code from 2024-01 on, judged by the names of its parts."""
    found = {match[1] for pattern in (_TABLE, _MLP) for key in state if (match := pattern.fullmatch(key))}
    if found <= _OF_2023:
        return False
    if found <= _OF_2024:
        return True
    parts = ", ".join(sorted(found))
    raise InputError(f"parts of its code up to 2023-12 and from 2024-01 on in one file ({parts}); not taken")


def _require_answers(
    image_size: int | None, normalisation: str | None, windows: str | None, activation: str | None
) -> None:
    """Ask what a Medical-SAM-Adapter file from 2024-01 on does not say of its training, all at once."""
    questions = {
        "--image-size N (its -image_size)": image_size,
        "--normalisation sam (images normalised as SAM's, its code from 2025-04 on) or unit (not)": normalisation,
        "--windows before-norm or after-norm (where a block of its image encoder cuts windows)": windows,
        "--activation relu or gelu (in the MLPs of its mask decoder's transformer)": activation,
    }
    asked = [question for question, answer in questions.items() if answer is None]
    if asked:
        raise InputError(f"a file from 2024-01 on does not say how it was trained; add {', '.join(asked)}")
    if windows not in WINDOWS:
        raise InputError(f"--windows {windows}: choose one of {', '.join(WINDOWS)}")


def _require_2d(state: State, thd: bool | None) -> None:
    """Refuse what may have been trained in 3D mode, whose arithmetic the networks here do not have."""
    if not thd and not any(map(_DEPTH.fullmatch, state)):
        return
    if thd is None:
        raise InputError(
            "depth adapters are in it, used or not; say whether it was trained in 3D mode (-thd True), with --thd"
        )
    if thd:
        raise InputError("3D mode is not supported: its windows mix slices in a way of their own; train a run here")


def usual_layout(kind: str, about: Mapping[str, Any]) -> str | None:
    """Return how slices were laid out in a checkpoint's training, None where only the user knows.

    Args:
        kind: of `FORMATS`.
        about: what its network says of itself: LiteMedSAM is a MedSAM, by whatever format it is imported.
    """
    if about["backbone"] == "vit_t" and about["patch_size"] == _TINY_VITS[1]["patch_size"]:
        return FORMATS["medsam"].slice_layout
    return FORMATS[kind].slice_layout


def unused_depth(key: str, tensor: Tensor) -> str | None:
    """Return why a tensor of Medical-SAM-Adapter is not taken, None where it is not known to be of no use."""
    return "not used in 2D mode" if _DEPTH.fullmatch(key) else None


def unused_part(key: str, tensor: Tensor) -> str | None:
    """Return why a tensor of MobileSAM's or SAM 2's is not taken, None where it is not known to be of no use."""
    if key.startswith(UNUSED_PARTS["hiera"]):
        return "of SAM 2's memory of other frames"
    return "classifier of ImageNet" if key.startswith(UNUSED_PARTS["tiny_vit"]) else None


def sam_adapter_options(state: State) -> dict[str, Any]:
    """Return the options of a network for SAM-Adapter's file; the rate of its spectrum is not in it."""
    options = sam_options(state)
    dim = BACKBONES[options["backbone"]].embed_dim
    width = _narrow(state, "image_encoder.prompt_generator.embedding_generator.weight", dim)
    return {**options, "frequency": {"rate": 0.25, "reduction": dim // width, "as_published": True}}


def _count(pattern: re.Pattern[str], state: State) -> int:
    return sum(pattern.fullmatch(key) is not None for key in state)


def _masks(state: State) -> int:
    """Return the number of a mask decoder's mask tokens."""
    rows, _ = _shape(state, MASK_TOKENS, 2)
    mlps = _count(_HYPERNETWORK, state)
    if rows != mlps or not 2 <= rows <= MOST_CLASSES + 1:
        raise InputError(f"{rows} mask tokens, {mlps} networks for them: no mask decoder; check the file")
    return rows


def _narrow(state: State, key: str, dim: int) -> int:
    """Return the width of a bottleneck of `dim` channels: what it says is allocated in every block."""
    width, inputs = _shape(state, key, 2)
    if inputs != dim or not 1 <= width <= dim:
        raise InputError(f"{key} is {width} x {inputs}: no bottleneck of {dim} channels; check the file")
    return width


def _shape(state: State, key: str, dimensions: int) -> tuple[int, ...]:
    """Return a tensor's shape, which says what the file is made for."""
    if key not in state:
        raise InputError(f"no {key} in it; is it of this format?")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions:
        raise InputError(f"{key} is {shape}, which has not {dimensions} dimensions; check the file")
    return shape


@dataclass(frozen=True)
class Format:
    """A published format.

    Attributes:
        options: gives the options of `Segmenter` for a state dict.
        normalisation: what its authors feed, which the file does not say; a name in `NORMALISATIONS`.
        slice_layout: how its authors lay out slices, which the file does not say either, a name in
            `ragsam.transforms.layout.LAYOUTS`; None where only the user knows.
        image_size: where the file does not say it.
        whole: the file holds a whole SAM, and can stand without base weights.
        full_tuning: on base weights everything counts as tuned.
        state: where the state dict is in a file that has more than that.
        records: what stands beside it there.
        asks: arguments of `options` that only the user can answer.
        ignore: says why a key without a place is not taken, None where that is an error.
        absent: by a part of our tensors' names, why the file may lack them, and what stands there.
    """

    options: Callable[[State], dict[str, Any]]
    normalisation: str
    slice_layout: str | None = None
    image_size: int | None = None
    whole: bool = True
    full_tuning: bool = False
    state: str | None = None
    records: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    ignore: Callable[[str, Tensor], str | None] = lambda key, tensor: None
    absent: Mapping[str, str] = field(default_factory=dict)


FORMATS: dict[str, Format] = {
    "sam": Format(sam_options, "sam", "ras", full_tuning=True, ignore=unused_part),
    "medsam": Format(medsam_options, "unit", "file", full_tuning=True, state="model", records=("optimizer", "epoch")),
    "samed": Format(samed_options, "unit", "file", image_size=512, whole=False),
    "medical-sam-adapter": Format(
        medical_sam_adapter_options,
        "unit",
        state="state_dict",
        records=("epoch", "model", "optimizer", "best_tol", "path_helper"),
        asks=("image_size", "normalisation", "thd", "activation", "windows"),
        ignore=unused_depth,
    ),
    "sam-adapter": Format(
        sam_adapter_options,
        "sam",
        whole=False,
        absent={"sam.prompt_encoder.": "it takes no prompts; the base's"},
    ),
}
