"""What published checkpoints say of their networks: the options of a `Segmenter` that holds them, found in the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ragsam.errors import InputError
from ragsam.networks.checkpoints import MASK_TOKENS
from ragsam.networks.sam import BACKBONES

#: Label volumes are of 8 bits.
MOST_CLASSES = 255

_HYPERNETWORK = re.compile(r"mask_decoder\.output_hypernetworks_mlps\.\d+\.layers\.0\.weight")
_UPDATE = re.compile(r"w_a_\d+")
_BLOCK = re.compile(r"image_encoder\.blocks\.\d+\.norm1\.weight")
_TABLE = re.compile(r"image_encoder\.blocks\.\d+\.attn\.(\w*pos\w*)")
_SAMS_TABLES = ("rel_pos_h", "rel_pos_w")
_ADAPTERS = {"space": "Space", "mlp": "MLP", "depth": "Depth"}

State = Mapping[str, Tensor]


def samed_options(state: State) -> dict[str, Any]:
    """Return the options of a network for SAMed's or SAMed_s's file: the image size is not in it."""
    _shape(state, "w_a_000", 2)
    backbones = {2 * size.depth: name for name, size in BACKBONES.items()}
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
    _, rows, columns, width = _shape(state, "image_encoder.pos_embed", 4)
    patch = _shape(state, "image_encoder.patch_embed.proj.weight", 4)[-1]
    depth = _count(_BLOCK, state)
    backbones = {(size.embed_dim, size.depth): name for name, size in BACKBONES.items()}
    backbone = backbones.get((width, depth))
    if backbone is None or rows != columns or not rows or not patch:
        raise InputError(f"an encoder of {depth} blocks, width {width} on {rows} x {columns} patches is none of SAM's")
    return {
        "num_classes": 1,
        "mask_tokens": _masks(state),
        "backbone": backbone,
        "patch_size": patch,
        "image_size": rows * patch,
    }


def medical_sam_adapter_options(state: State) -> dict[str, Any]:
    """Return the options of a network for Medical-SAM-Adapter's state dict.

    Its training renames SAM's relative positions and so begins without them; where the file has none, or zeros, the
    network has none either.
    """
    options = sam_options(state)
    size = BACKBONES[options["backbone"]]
    adapter: dict[str, Any] = {}
    widths = []
    for kind, name in _ADAPTERS.items():
        key = f"image_encoder.blocks.0.{name}_Adapter.D_fc1.weight"
        adapter[kind] = key in state
        if key in state:
            widths.append(_narrow(state, key, size.embed_dim))
    if not widths:
        raise InputError("no adapters in it; a full SAM without them is imported as sam")
    adapter["ratio"] = widths[0] / size.embed_dim
    tables = [tensor for key, tensor in state.items() if _table(key) in _SAMS_TABLES]
    if len(tables) not in (0, 2 * size.depth):
        raise InputError(f"{len(tables)} tables of relative positions in {size.depth} blocks; check the file")
    adapter["positions"] = any(bool(tensor.any()) for tensor in tables)
    return {**options, "adapter": adapter}


def sam_adapter_options(state: State) -> dict[str, Any]:
    """Return the options of a network for SAM-Adapter's file; the rate of its spectrum is not in it."""
    options = sam_options(state)
    dim = BACKBONES[options["backbone"]].embed_dim
    width = _narrow(state, "image_encoder.prompt_generator.embedding_generator.weight", dim)
    return {**options, "frequency": {"rate": 0.25, "reduction": dim // width}}


def lost_table(key: str, tensor: Tensor) -> str | None:
    """Return why a tensor of Medical-SAM-Adapter is not taken, None where it is not known to be of no use."""
    if _table(key) in ("", *_SAMS_TABLES) or tensor.any():
        return None
    return "relative positions under another name than SAM's, all zero"


def _table(key: str) -> str:
    """Return the name of a block's table of relative positions, nothing of any other tensor."""
    match = _TABLE.fullmatch(key)
    return match[1] if match else ""


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
        image_size: where the file does not say it.
        whole: the file holds a whole SAM, and can stand without base weights.
        full_tuning: on base weights everything counts as tuned.
        records: what stands beside the state dict in the file.
        ignore: says why a key without a place is not taken, None where that is an error.
        absent: by a part of our tensors' names, why the file may lack them, and what stands there.
    """

    options: Callable[[State], dict[str, Any]]
    normalisation: str
    image_size: int | None = None
    whole: bool = True
    full_tuning: bool = False
    records: tuple[str, ...] = ()
    ignore: Callable[[str, Tensor], str | None] = lambda key, tensor: None
    absent: Mapping[str, str] = field(default_factory=dict)


FORMATS: dict[str, Format] = {
    "sam": Format(sam_options, "sam", full_tuning=True),
    "medsam": Format(sam_options, "unit", full_tuning=True),
    "samed": Format(samed_options, "unit", image_size=512, whole=False),
    "medical-sam-adapter": Format(
        medical_sam_adapter_options,
        "unit",
        records=("epoch", "model", "optimizer", "best_tol", "path_helper"),
        ignore=lost_table,
        absent=dict.fromkeys(_SAMS_TABLES, "zero: its training lost SAM's relative positions"),
    ),
    "sam-adapter": Format(
        sam_adapter_options,
        "sam",
        whole=False,
        absent={"sam.prompt_encoder.": "it takes no prompts; the base's"},
    ),
}
