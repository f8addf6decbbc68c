"""The names that published checkpoints give to the tensors of our networks, one table a format, for both ways.

Each table is made from a `Segmenter` that holds what the format holds, and maps the format's names to ours.

Source: SAMed (arXiv:2304.13785), Medical-SAM-Adapter (arXiv:2304.12620), SAM-Adapter (arXiv:2304.09148), SAM
(arXiv:2304.02643), and the files that their authors publish.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import nn

from ragsam.networks.lora import WHOLE, LoRALinear, decoder_attentions
from ragsam.networks.segmenter import Segmenter

#: Of the attentions of a mask decoder, in the order of `decoder_attentions`.
_DECODER_KINDS = ("sa", "cti", "cit")
POSITION_CODE = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

_ADAPTERS = {"space_adapter": "Space_Adapter", "mlp_adapter": "MLP_Adapter", "depth_adapter": "Depth_Adapter"}
_ADAPTER = re.compile(rf"\b({'|'.join(_ADAPTERS)})\.(down|up)\.")
_GENERATOR = {"up": "shared_mlp", "embedding": "embedding_generator", "high": "prompt_generator.proj"}


def plain_sam_names(network: Segmenter) -> dict[str, str]:
    """Return the names of SAM's own checkpoints, and MedSAM's: those of segment-anything's modules."""
    return {name.removeprefix("sam."): name for name in network.state_dict() if name.startswith("sam.")}


def samed_names(network: Segmenter) -> dict[str, str]:
    """Return SAMed's names, or, of a network whose decoder carries LoRA, SAMed_s's.

    `w_a_000`, `w_b_000` and on: of block i, 2 i is the query's update and 2 i + 1 the value's. Prompt encoder and mask
    decoder have SAM's own names. SAMed_s has `sa_a_000` and on for self-attention (of layer i, 2 i and 2 i + 1), `cti`
    from tokens to image, `cit` from image to tokens, `fati_qa` and on for the last attention, and lacks the decoder's
    transformer itself.
    """
    places = {id(module): name for name, module in network.named_modules()}
    names = {}
    for index, block in enumerate(network.sam.image_encoder.blocks):
        for part, letter in enumerate("qv"):
            number, prefix = 2 * index + part, f"{places[id(block.attn.qkv)]}.updates.{letter}"
            names |= {f"w_{side}_{number:03d}": f"{prefix}.{side}.weight" for side in "ab"}
    transformer = network.sam.mask_decoder.transformer
    tuned = isinstance(transformer.final_attn_token_to_image.q_proj, LoRALinear)
    if tuned:
        names |= _decoder_names(transformer, places)
    for theirs, ours in plain_sam_names(network).items():
        left_out = tuned and theirs.startswith("mask_decoder.transformer.")
        if theirs.startswith(("prompt_encoder.", "mask_decoder.")) and not left_out:
            names[theirs] = ours
    return names


def _decoder_names(transformer: nn.Module, places: Mapping[int, str]) -> dict[str, str]:
    """Return SAMed_s's names of the updates in a mask decoder's transformer."""
    names, layers = {}, len(transformer.layers)
    for index, attention in enumerate(decoder_attentions(transformer)):
        kind, layer = divmod(index, layers)
        for part, letter in enumerate("qv"):
            linear = attention.q_proj if letter == "q" else attention.v_proj
            for side in "ab":
                last = kind == len(_DECODER_KINDS)
                theirs = f"fati_{letter}{side}" if last else f"{_DECODER_KINDS[kind]}_{side}_{2 * layer + part:03d}"
                names[theirs] = f"{places[id(linear)]}.updates.{WHOLE}.{side}.weight"
    return names


def medical_sam_adapter_names(network: Segmenter) -> dict[str, str]:
    """Return Medical-SAM-Adapter's names: SAM's, and `{MLP,Space,Depth}_Adapter.D_fc1` and `D_fc2` in every block."""
    return {_ADAPTER.sub(_their_adapter, theirs): ours for theirs, ours in plain_sam_names(network).items()}


def _their_adapter(match: re.Match[str]) -> str:
    return f"{_ADAPTERS[match[1]]}.D_fc{1 if match[2] == 'down' else 2}."


def sam_adapter_names(network: Segmenter) -> dict[str, str]:
    """Return SAM-Adapter's names: image encoder, its `prompt_generator`, mask decoder, and what it keeps of prompts."""
    names = {}
    for theirs, ours in plain_sam_names(network).items():
        if theirs.startswith("image_encoder.frequency."):
            names[f"image_encoder.prompt_generator.{_their_generator(theirs.split('.', 2)[2])}"] = ours
        elif theirs.startswith(("image_encoder.", "mask_decoder.")):
            names[theirs] = ours
    kept = (POSITION_CODE, "prompt_encoder.no_mask_embed.weight")
    return names | {name.removeprefix("prompt_encoder."): f"sam.{name}" for name in kept}


def _their_generator(name: str) -> str:
    """Return SAM-Adapter's name of a part of its prompt generator, such as blocks.3.weight."""
    part, rest = name.split(".", 1)
    if part == "blocks":
        index, kind = rest.split(".")
        return f"lightweight_mlp_{index}.0.{kind}"
    return f"{_GENERATOR[part]}.{rest}"


#: The tables by format.
NAMES: dict[str, Callable[[Segmenter], dict[str, str]]] = {
    "sam": plain_sam_names,
    "medsam": plain_sam_names,
    "samed": samed_names,
    "medical-sam-adapter": medical_sam_adapter_names,
    "sam-adapter": sam_adapter_names,
}
