"""The names that published checkpoints give to the tensors of our networks, one table a format, for both ways.

Each table is made from a `Segmenter` that holds what the format holds, and maps the format's names to ours.

Source: SAMed (arXiv:2304.13785), Medical-SAM-Adapter (arXiv:2304.12620), SAM-Adapter (arXiv:2304.09148), SAM
(arXiv:2304.02643), and the files that their authors publish.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ragsam.networks.lora import WHOLE, lora_layers
from ragsam.networks.segmenter import Segmenter

#: SAMed_s's names of the attentions in a layer of the mask decoder's transformer.
_DECODER_KINDS = {"sa": "self_attn", "cti": "cross_attn_token_to_image", "cit": "cross_attn_image_to_token"}
#: Patterns in our names, and what Medical-SAM-Adapter has in their place.
_MEDICAL_SAM_ADAPTER = {
    r"\bspace_adapter\.": "Space_Adapter.",
    r"\bmlp_adapter\.": "MLP_Adapter.",
    r"\bdepth_adapter\.": "Depth_Adapter.",
    r"_Adapter\.down\.": "_Adapter.D_fc1.",
    r"_Adapter\.up\.": "_Adapter.D_fc2.",
}
_OF_2024 = {
    r"\battn\.rel_pos_([hw])$": r"attn.rel_\1",
    r"(\btransformer\.layers\.\d+\.mlp)\.lin1\.": r"\1.layers.0.0.",
    r"(\btransformer\.layers\.\d+\.mlp)\.lin2\.": r"\1.fc.",
}
#: Patterns in our names, and what SAM-Adapter has in their place.
_SAM_ADAPTER = {
    r"\.frequency\.up\.": ".prompt_generator.shared_mlp.",
    r"\.frequency\.embedding\.": ".prompt_generator.embedding_generator.",
    r"\.frequency\.high\.": ".prompt_generator.prompt_generator.proj.",
    r"\.frequency\.blocks\.(\d+)\.": r".prompt_generator.lightweight_mlp_\1.0.",
}


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
    names = {}
    for index in range(len(network.sam.image_encoder.blocks)):
        updates = f"sam.image_encoder.blocks.{index}.attn.qkv.updates"
        for number, letter in ((2 * index, "q"), (2 * index + 1, "v")):
            names[f"w_a_{number:03d}"] = f"{updates}.{letter}.a.weight"
            names[f"w_b_{number:03d}"] = f"{updates}.{letter}.b.weight"
    kept = ("prompt_encoder.", "mask_decoder.")
    left_out: tuple[str, ...] = ()
    transformer = network.sam.mask_decoder.transformer
    if lora_layers(transformer):
        names |= _decoder_names(len(transformer.layers))
        left_out = ("mask_decoder.transformer.",)
    for theirs, ours in plain_sam_names(network).items():
        if theirs.startswith(kept) and not theirs.startswith(left_out):
            names[theirs] = ours
    return names


def _decoder_names(layers: int) -> dict[str, str]:
    """Return SAMed_s's names of the updates in a mask decoder's transformer."""
    linears = {}  # by their name, a question mark for the letter of an update's two matrices
    for kind, attention in _DECODER_KINDS.items():
        for layer in range(layers):
            linears[f"{kind}_?_{2 * layer:03d}"] = f"layers.{layer}.{attention}.q_proj"
            linears[f"{kind}_?_{2 * layer + 1:03d}"] = f"layers.{layer}.{attention}.v_proj"
    linears["fati_q?"] = "final_attn_token_to_image.q_proj"
    linears["fati_v?"] = "final_attn_token_to_image.v_proj"
    names = {}
    for theirs, linear in linears.items():
        updates = f"sam.mask_decoder.transformer.{linear}.updates.{WHOLE}"
        names[theirs.replace("?", "a")] = f"{updates}.a.weight"
        names[theirs.replace("?", "b")] = f"{updates}.b.weight"
    return names


def medical_sam_adapter_names(network: Segmenter) -> dict[str, str]:
    """Return Medical-SAM-Adapter's names: SAM's, and `{MLP,Space,Depth}_Adapter.D_fc1` and `D_fc2` in every block.

    From 2024-01 on tables of relative positions are `rel_h` and `rel_w`, and the MLPs of the decoder's transformer are
    named as EfficientSAM's.
    """
    table = dict(_MEDICAL_SAM_ADAPTER)
    if network.about["efficient_decoder"] is not None:
        table |= _OF_2024
    return {_renamed(name, table): ours for name, ours in plain_sam_names(network).items()}


def sam_adapter_names(network: Segmenter) -> dict[str, str]:
    """Return SAM-Adapter's names: image encoder, its `prompt_generator`, mask decoder, and what it keeps of prompts."""
    names = {}
    for name, ours in plain_sam_names(network).items():
        if name.startswith(("image_encoder.", "mask_decoder.")):
            names[_renamed(name, _SAM_ADAPTER)] = ours
    for name in ("pe_layer.positional_encoding_gaussian_matrix", "no_mask_embed.weight"):
        names[name] = f"sam.prompt_encoder.{name}"
    return names


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for pattern, replacement in table.items():
        name = re.sub(pattern, replacement, name)
    return name


#: The tables by format.
NAMES: dict[str, Callable[[Segmenter], dict[str, str]]] = {
    "sam": plain_sam_names,
    "medsam": plain_sam_names,
    "samed": samed_names,
    "medical-sam-adapter": medical_sam_adapter_names,
    "sam-adapter": sam_adapter_names,
}
