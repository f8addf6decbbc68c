"""Weights in and out: SAM's own checkpoints at another size, and our safetensors files with what they were made for."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ragsam.errors import InputError
from ragsam.files import atomic_write
from ragsam.networks.encoders import family_name, family_of
from ragsam.networks.sam2_keys import MEMORY_PARTS, SAM2_STATE, sam_names

#: Parts of a SAM that count masks: made again when the number of masks differs (3 in SAM, K classes here).
PER_MASK_PARTS = (
    "mask_decoder.mask_tokens.",
    "mask_decoder.output_hypernetworks_mlps.",
    "mask_decoder.iou_prediction_head.",
)
MASK_TOKENS = "mask_decoder.mask_tokens.weight"
#: What differs with the image size and is resized.
RESIZED_PARTS = ("rel_pos_h", "rel_pos_w", "pos_embed", "patch_embed.proj.weight")
#: MobileSAM's encoder keeps its classifier for ImageNet, which segments nothing; SAM 2 remembers other frames.
UNUSED_PARTS = {"tiny_vit": ("image_encoder.norm_head.", "image_encoder.head."), "hiera": MEMORY_PARTS}


@dataclass
class LoadReport:
    """What became of every key of a checkpoint."""

    used: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{len(self.used)} tensors used, {len(self.resized)} resized, {len(self.dropped)} dropped (per mask)"
        if self.unused:
            text += f", {len(self.unused)} of no use (classifier, memory)"
        return text


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict of tensors from `.safetensors`, or from `.pth`/`.pt` with `weights_only=True`.

    SAM 2's files keep it under `model`; its tensors get the names that a SAM has here, see `sam_names`.

    Raises:
        InputError: as `read_checkpoint`, or not a plain dict of tensors.
    """
    content = read_checkpoint(path, mapped=True)
    within = content.get(SAM2_STATE) if isinstance(content, dict) else None
    if is_state_dict(within) and family_of(within) == "hiera":
        content = within
    if not is_state_dict(content):
        raise InputError(f"{Path(path).name}: not a plain state dict of tensors; save `model.state_dict()`")
    return sam_names(content) if family_of(content) == "hiera" else content


def read_checkpoint(path: str | os.PathLike[str], *, mapped: bool = False) -> Any:
    """Read whatever a checkpoint holds, tensors on the CPU; `.safetensors`, or `.pth`/`.pt` with `weights_only=True`.

    Args:
        mapped: leave the tensors of a `.pth` or `.pt` in the file until they are looked at, where its format allows it:
            what is copied into a network need not stand in memory twice. The file must not be written to meanwhile.

    Raises:
        InputError: missing, damaged, or with tensors larger than what the file holds of them. A pickle that carries
            code is refused unrun.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; check the path")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        archived = zipfile.is_zipfile(path)
        if archived:  # PyTorch stores tensors as they are: one that grows when it is unpacked is refused
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > path.stat().st_size:
                raise ValueError(f"it unpacks to {unpacked} bytes, more than it has")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and archived)
        _refuse_swollen(content)
    except Exception as error:  # a damaged pickle can end in any of them: KeyError, IndexError, AttributeError, ...
        text = str(error) or type(error).__name__
        reason = text.splitlines()[0][:120]
        if isinstance(error, pickle.UnpicklingError):  # PyTorch's own text is about its options
            reason = "it is not of PyTorch, or holds more than tensors"
        message = f"{path.name}: not a readable weights file ({reason}); fetch it again from its source"
        raise InputError(message) from error
    return content


def is_state_dict(content: Any) -> bool:
    """Whether something is a plain dict of tensors by name."""
    if not isinstance(content, dict):
        return False
    named = all(isinstance(key, str) for key in content)
    return named and all(isinstance(value, Tensor) for value in content.values())


def _refuse_swollen(content: Any) -> None:
    """Refuse tensors that repeat what they hold: a few bytes could stand for any size."""
    if isinstance(content, dict):
        for value in content.values():
            _refuse_swollen(value)
    if isinstance(content, Tensor):
        held = content.untyped_storage().nbytes()
        if content.numel() * content.element_size() > held:
            raise ValueError(f"a tensor of {tuple(content.shape)} that holds {held} bytes")


def load_sam_weights(sam: nn.Module, state: dict[str, Tensor]) -> LoadReport:
    """Load a SAM state dict into a SAM of any image size and number of masks.

    Position embeddings, relative positions and the patch kernel are resized bilinearly to this network's size; the
    parts that count masks are left as initialised when their number differs (SAMed's rule).

    Args:
        sam: the network, changed in place.
        state: keys as in `sam_vit_b_01ec64.pth`.

    Raises:
        InputError: a key that the network lacks or misses, or a shape that no resizing explains.
    """
    own = sam.state_dict()
    tokens = own[MASK_TOKENS]
    excused: set[str] = set()
    if state.get(MASK_TOKENS, tokens).shape != tokens.shape:
        excused = {key for key in (*own, *state) if key.startswith(PER_MASK_PARTS)}
    _require_family(state, sam.image_encoder.family)
    of_no_use = UNUSED_PARTS.get(sam.image_encoder.family, ())
    unused = {key for key in state if key.startswith(of_no_use)} - set(own)
    unknown = sorted(set(state) - set(own) - excused - unused)
    missing = sorted(set(own) - set(state) - excused)
    if unknown or missing:
        raise InputError(
            f"base weights: not a SAM of this size: {len(unknown)} unknown keys ({', '.join(unknown[:2])}), "
            f"{len(missing)} missing ({', '.join(missing[:2])}); check `backbone` against the file"
        )
    report = LoadReport()
    loaded = dict(own)
    for key, tensor in state.items():
        if key in excused:
            report.dropped.append(key)
        elif key in unused:
            report.unused.append(key)
        elif tensor.shape == own[key].shape:
            loaded[key] = tensor
            report.used.append(key)
        elif differs_in_size_alone(key, tensor.shape, own[key].shape):
            loaded[key] = resize(key, tensor, own[key].shape)
            report.resized.append(key)
        else:
            raise InputError(f"base weights: {key} is {tuple(tensor.shape)}, the network needs {tuple(own[key].shape)}")
    sam.load_state_dict(loaded)
    return report


def _require_family(state: Mapping[str, Tensor], family: str) -> None:
    """Refuse base weights whose image encoder is of a different family from the network's."""
    found = family_of(state)
    if found is not None and found != family:
        raise InputError(
            f"base weights: the image encoder is {family_name(found)}, the network's is {family_name(family)}; "
            "set `backbone` to that of the weights, or leave it out"
        )


def load_prompt_head(head: nn.Module, state: dict[str, Tensor]) -> None:
    """Load SAM's own prompted masks into a `PromptHead`, in place.

    Args:
        state: keys as in `sam_vit_b_01ec64.pth`.

    Raises:
        InputError: base weights without SAM's four masks, such as those of a tuned network.
    """
    found = {}
    for key, tensor in state.items():
        if key.startswith(PER_MASK_PARTS):
            found[key.removeprefix("mask_decoder.")] = tensor
    try:
        head.load_state_dict(found)
    except RuntimeError as error:  # other keys or shapes
        masks = len(state.get(MASK_TOKENS, ()))
        needed = len(head.mask_tokens.weight)
        raise InputError(
            f"base weights: {masks} masks, where SAM's own prompts need {needed}; set `prompts` to null or trained"
        ) from error


def differs_in_size_alone(key: str, shape: torch.Size, wanted: torch.Size) -> bool:
    """Whether resizing brings a tensor to `wanted`: its channels must be the same already."""
    if not key.endswith(RESIZED_PARTS) or len(shape) != len(wanted):
        return False
    if key.endswith("patch_embed.proj.weight"):
        return shape[:2] == wanted[:2]
    return shape[-1] == wanted[-1]


def resize(key: str, tensor: Tensor, shape: torch.Size, *, positions: str = "bilinear") -> Tensor:
    """Resize a position embedding [1, h, w, C], a relative position table [L, C] or a patch kernel [C, 3, p, p].

    Args:
        positions: how a position embedding is resized, `bilinear` or `bicubic`.
    """
    tensor = tensor.float()
    if key.endswith("pos_embed"):
        return F.interpolate(tensor.permute(0, 3, 1, 2), shape[1:3], mode=positions).permute(0, 2, 3, 1)
    if key.endswith("patch_embed.proj.weight"):
        # The kernel sums over its area, so its values shrink as the area grows.
        scale = tensor.shape[-1] * tensor.shape[-2] / (shape[-1] * shape[-2])
        return F.interpolate(tensor, shape[-2:], mode="bilinear") * scale
    return F.interpolate(tensor.T[None], shape[0], mode="linear")[0].T


def save_weights(path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and what they were made for as safetensors, whole or not at all.

    Args:
        metadata: values are kept as JSON text, since the format allows text only.

    Raises:
        InputError: where the file cannot be written.
    """
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    with atomic_write(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, texts)
        except safetensors.SafetensorError as error:
            raise OSError(str(error)) from error  # a full disk, reported as by every other writer


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_weights`: its tensors and its metadata.

    Raises:
        InputError: missing, damaged, or without metadata.
    """
    return read_state_dict(path), load_metadata(path)


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata of a file of `save_weights` alone.

    Raises:
        InputError: missing, or without metadata.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such weights file; check the path")
    try:
        with safetensors.safe_open(path, "pt") as file:
            texts = file.metadata() or {}
        metadata = {key: json.loads(value) for key, value in texts.items()}
    except (safetensors.SafetensorError, ValueError):
        metadata = {}
    if not metadata:
        raise InputError(f"{Path(path).name}: no metadata of ours in it; import the checkpoint first")
    return metadata
