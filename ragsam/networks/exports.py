"""Networks of ours into published formats; what a format cannot hold is refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ragsam.errors import InputError
from ragsam.networks.checkpoints import PER_MASK_PARTS
from ragsam.networks.lora import lora_layers, merge_lora, unmerge_lora
from ragsam.networks.published import samed_names
from ragsam.networks.segmenter import Segmenter

#: Tensors in a format's names, and lines on what was left out or has to be known.
Exported = tuple[dict[str, Tensor], list[str]]


def to_samed(network: Segmenter) -> Exported:
    """Return SAMed's flat dict, or SAMed_s's where the decoder carries LoRA.

    Args:
        network: on base weights, tuned by LoRA of query and value in every block.

    Raises:
        InputError: anything that the format has no place for.
    """
    _refuse("SAMed's format", [*_samed_obstacles(network.about), *_detail_obstacles(network)])
    if any(layer.scale != 1 for layer in lora_layers(network)):
        raise InputError("SAMed's format: its updates have the scale 1; train with alpha equal to rank")
    state, notes = network.state_dict(), _left_out(network)
    if network.prompt_head is not None:
        notes.append("prompt head left out: it is the base's own")
    return {key: state[name].detach().cpu().clone() for key, name in samed_names(network).items()}, notes


def to_sam(network: Segmenter) -> Exported:
    """Return the state dict of a full SAM, LoRA merged into it.

    The masks are SAM's own where the network has them; else the class tokens stand in their place.

    Raises:
        InputError: adapters, frequency prompts, a detail branch that has learnt, or a network trained with one from
            scratch.
    """
    added = [f"{name}: a plain SAM has none" for name in ("adapter", "frequency") if name in network.about["tuning"]]
    _refuse("a plain SAM", [*added, *_detail_obstacles(network)])
    merge_lora(network)
    state = {
        name.removeprefix("sam.").replace(".linear.", "."): tensor.detach().cpu().clone()
        for name, tensor in network.state_dict().items()
        if name.startswith("sam.") and ".updates." not in name
    }
    unmerge_lora(network)
    notes = _left_out(network)
    if network.prompt_head is not None:
        notes.append("masks: SAM's own for prompts; the class tokens are left out")
        state = {key: tensor for key, tensor in state.items() if not key.startswith(PER_MASK_PARTS)}
        head = network.prompt_head.state_dict().items()
        state |= {f"mask_decoder.{name}": tensor.detach().cpu().clone() for name, tensor in head}
    elif network.mask_tokens is None:
        masks = network.num_classes + 1
        notes.append(f"masks: {masks} class tokens, background first, where SAM has 4 masks for prompts")
    if network.image_size != 1024:
        notes.append(f"positions: for {network.image_size} pixels, where SAM's own builder takes 1024")
    return state, notes


def _samed_obstacles(about: dict[str, Any]) -> list[str]:
    """Return what SAMed's format has no place for, judged by what the network says of itself."""
    lora, decoder = about["tuning"].get("lora"), about["tuning"].get("decoder_lora")
    obstacles = [f"{name}: the format has none" for name in ("adapter", "frequency") if name in about["tuning"]]
    if about["base_sha256"] is None or about["full_tuning"]:
        obstacles.append("the whole network was trained, and the format holds LoRA and decoder alone")
    if lora is None:
        return [*obstacles, "no LoRA in the encoder"]
    if set(lora.get("targets", ("q", "v"))) != {"q", "v"}:
        obstacles.append(f"LoRA on {', '.join(lora['targets'])}: the format has query and value")
    if lora.get("blocks") is not None:
        obstacles.append(f"LoRA in blocks {lora['blocks']}: the format has every block")
    ranks = [options.get("rank", 4) for options in (lora, decoder) if options is not None]
    if len(set(ranks)) > 1:
        obstacles.append(f"ranks {ranks[0]} and {ranks[1]} in encoder and decoder: the format has one")
    if about["mask_tokens"] is not None:
        obstacles.append("mask_tokens: the format has a token for the background too")
    if about["normalisation"] != "unit":
        obstacles.append(f"normalisation {about['normalisation']}: SAMed takes slices of 0-1 as they are")
    if about["prompts"] == "trained":
        obstacles.append("prompts: trained: the format has no masks for prompts")
    return obstacles


def _detail_obstacles(network: Segmenter) -> list[str]:
    """A detail branch is left out only while it has no effect."""
    if network.detail is None or (network.base_sha256 is not None and network.detail.is_idle()):
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
    if obstacles:
        more = f" ({len(obstacles) - 1} more: {'; '.join(obstacles[1:])})" if len(obstacles) > 1 else ""
        raise InputError(f"{what} cannot hold this network: {obstacles[0]}{more}")


#: Formats of `ragsam export` that are state dicts, by name.
STATE_DICTS: dict[str, Callable[[Segmenter], Exported]] = {"samed": to_samed, "sam": to_sam}
