"""SAM 2's files: their tensors under the names that a SAM has here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

#: Where the state dict is in a file of SAM 2's.
SAM2_STATE = "model"
#: Parts of SAM 2's memory of other frames and of its tracking, which slices that stand alone do not use.
MEMORY_PARTS = (
    "memory_attention.",
    "memory_encoder.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
    "mask_downsample.",
    "mask_decoder.pred_obj_score_head.",
)
_PREFIXES = {"sam_prompt_encoder.": "prompt_encoder.", "sam_mask_decoder.": "mask_decoder."}
_MLP_LAYERS = {".mlp.layers.0.": ".mlp.lin1.", ".mlp.layers.1.": ".mlp.lin2."}


def sam_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a SAM 2 or MedSAM2 file under the names that the network here has, its memory too."""
    return {_sam_name(key): tensor for key, tensor in state.items()}


def _sam_name(key: str) -> str:
    for theirs, ours in _PREFIXES.items():
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
    if key == "no_mem_embed":
        return "image_encoder.no_mem_embed"
    if not key.startswith(("image_encoder.", "mask_decoder.transformer.")):
        return key
    for theirs, ours in _MLP_LAYERS.items():
        key = key.replace(theirs, ours)
    return key
