"""Networks of ours into published formats; what a format cannot hold is refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ragsam.errors import InputError
from ragsam.networks.checkpoints import PER_MASK_PARTS
from ragsam.networks.lora import lora_layers, merge_lora, unmerge_lora
from ragsam.networks.published import samed_names
from ragsam.networks.sam import BACKBONES
from ragsam.networks.segmenter import Segmenter

#: Tensors in a format's names, and lines on what was left out or has to be known.
Exported = tuple[dict[str, Tensor], list[str]]
#: What tunes a network by layers that published formats do not have.
_ADDED = ("adapter", "frequency")


def to_samed(network: Segmenter) -> Exported:
    """Return SAMed's flat dict, or SAMed_s's where the decoder carries LoRA.

    Args:
        network: on base weights, tuned by LoRA of query and value in every block.

    Raises:
        InputError: anything that the format has no place for.
    """
    obstacles = [*_samed_obstacles(network.about), *_decoder_obstacles(network), *_detail_obstacles(network)]
    _refuse("SAMed's format", obstacles)
    if any(layer.scale != 1 for layer in lora_layers(network)):
        raise InputError("SAMed's format: its updates have the scale 1; train with alpha equal to rank")
    state = network.state_dict()
    exported = {key: state[name] for key, name in samed_names(network).items()}
    notes = _left_out(network)
    if network.prompt_head is not None:
        notes.append("prompt head left out: it is the base's own")
    return _copied(exported), notes


def to_sam(network: Segmenter) -> Exported:
    """Return the state dict of a full SAM, LoRA merged into it.

    The masks are SAM's own where the network has them; else the class tokens stand in their place.

    Raises:
        InputError: adapters, frequency prompts, a detail branch that has learnt, or a network trained with one from
            scratch.
    """
    added = [f"{name}: a plain SAM has none" for name in _ADDED if name in network.about["tuning"]]
    added += _decoder_obstacles(network)
    if network.takes_skips:
        added.append("a Hiera, and SAM 2's mask decoder: a plain SAM has a ViT")
    _refuse("a plain SAM", [*added, *_detail_obstacles(network)])
    left_out = PER_MASK_PARTS if network.prompt_head is not None else ()
    exported = {}
    merge_lora(network)
    for name, tensor in network.sam.state_dict().items():
        if ".updates." not in name and not name.startswith(left_out):
            exported[name.replace(".linear.", ".")] = tensor
    state = _copied(exported)
    unmerge_lora(network)
    notes = _left_out(network)
    if network.prompt_head is not None:
        notes.append("masks: SAM's own for prompts; the class tokens are left out")
        state |= _copied(network.prompt_head.state_dict(prefix="mask_decoder."))
    elif network.mask_tokens is None:
        masks = network.num_classes + 1
        notes.append(f"masks: {masks} class tokens, background first, where SAM has 4 masks for prompts")
    if network.image_size != 1024 and network.sam.image_encoder.family == "vit":
        notes.append(f"positions: for {network.image_size} pixels, where SAM's own builder takes 1024")
    return state, notes


def _samed_obstacles(about: dict[str, Any]) -> list[str]:
    """Return what SAMed's format has no place for, judged by what the network says of itself."""
    tuning = about["tuning"]
    obstacles = [f"{name}: the format has none" for name in _ADDED if name in tuning]
    if BACKBONES[about["backbone"]].family != "vit":
        obstacles.append(f"backbone {about['backbone']}: the format has SAM's own image encoders")
    if about["base_sha256"] is None or about["full_tuning"]:
        obstacles.append("the whole network was trained, and the format holds LoRA and decoder alone")
    if "lora" not in tuning:
        return [*obstacles, "no LoRA in the encoder"]
    lora = tuning["lora"]
    targets = lora.get("targets", ("q", "v"))
    blocks = lora.get("blocks")
    rank = lora.get("rank", 4)
    decoder_rank = tuning.get("decoder_lora", lora).get("rank", 4)
    normalisation = about["normalisation"]
    unfit = {
        f"LoRA on {', '.join(targets)}: the format has query and value": set(targets) != {"q", "v"},
        f"LoRA in blocks {blocks}: the format has every block": blocks is not None,
        f"ranks {rank} and {decoder_rank} in encoder and decoder: the format has one": rank != decoder_rank,
        "mask_tokens: the format has a token for the background too": about["mask_tokens"] is not None,
        f"normalisation {normalisation}: SAMed takes slices of 0-1 as they are": normalisation != "unit",
        "prompts: trained: the format has no masks for prompts": about["prompts"] == "trained",
    }
    return obstacles + [obstacle for obstacle, holds in unfit.items() if holds]


def _decoder_obstacles(network: Segmenter) -> list[str]:
    """The arithmetic of EfficientSAM's decoder is not SAM's, whatever its tensors are called."""
    return ["efficient_decoder: the format has SAM's own"] if network.about["efficient_decoder"] else []


def _detail_obstacles(network: Segmenter) -> list[str]:
    """A detail branch is left out only while it has no effect."""
    if network.detail is None:
        return []
    if network.base_sha256 is not None and network.detail.is_idle():
        return []
    return ["a detail branch that has learnt cannot be left out; train with detail: false"]


def _left_out(network: Segmenter) -> list[str]:
    """Return lines on what is dropped without changing what the network gives."""
    notes = []
    if network.fusion is not None:
        notes.append("fusion left out: what is exported is the network with retrieval switched off, to the bit")
    if network.detail is not None:
        notes.append("detail branch left out: it has no effect yet")
    return notes


def _refuse(what: str, obstacles: list[str]) -> None:
    if not obstacles:
        return
    first, *others = obstacles
    message = f"{what} cannot hold this network: {first}"
    if others:
        message += f" ({len(others)} more: {'; '.join(others)})"
    raise InputError(message)


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().clone() for key, tensor in state.items()}


#: Formats of `ragsam export` that are state dicts, by name.
STATE_DICTS: dict[str, Callable[[Segmenter], Exported]] = {"samed": to_samed, "sam": to_sam}
