"""A training that begins with weights: of an imported checkpoint, or of another run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ragsam.errors import InputError
from ragsam.networks.checkpoints import PER_MASK_PARTS
from ragsam.networks.key_report import KeyReport, fold
from ragsam.networks.prompts import NUM_MASKS
from ragsam.networks.segmenter import Segmenter

#: Parts that count classes.
_OF_CLASSES = (*(f"sam.{part}" for part in PER_MASK_PARTS), "fusion.")
_PROMPT_HEAD = "prompt_head."
#: Parts that begin at exactly zero effect on pretrained weights.
_ADDED = ("fusion.", "stem.", "detail.")
_ADDED_WITHIN = (".updates.", "_adapter.", ".frequency.")
_OTHER_CLASSES = "other classes than the network's"


def load_start(
    network: Segmenter, state: Mapping[str, Tensor], about: Mapping[str, Any], labels: Sequence[str]
) -> KeyReport:
    """Load weights to begin a training with, in place, and return what became of every key.

    All must fit, but for what begins at zero effect in the network and is not in the weights, and for what counts
    classes where these are others: such parts stay as they were initialised. Where the weights answer prompts by SAM's
    own masks, the network's prompt head begins with those.

    Args:
        network: that is to train.
        state: tensors of a weights file of ours.
        about: its metadata.
        labels: names of the network's organs, in order.

    Raises:
        InputError: weights made on another base, or a key or shape that does not fit.
    """
    if about.get("base_sha256") != network.base_sha256:
        raise InputError(f"start: {base_fault(about.get('base_sha256'))}")
    same = same_classes(network.about, about, labels)
    own, given, report, loaded = network.trainable_state(), _with_prompt_head(network, state, about), KeyReport(), {}
    for key, tensor in given.items():
        if not same and key.startswith(_OF_CLASSES):
            report.ignored[key] = _OTHER_CLASSES
        elif key not in own:
            raise InputError(f"start: {key} has no place in the network; set its options to those of the weights")
        elif own[key].shape != tensor.shape:
            shapes = f"is {tuple(tensor.shape)}, the network needs {tuple(own[key].shape)}"
            raise InputError(f"start: {key} {shapes}; set its options to those of the weights")
        else:
            report.used.append(key)
            loaded[key] = tensor
    lacking = [key for key in own if key not in loaded]
    for key in lacking:
        if not same and key.startswith(_OF_CLASSES):
            report.missing[key] = f"{_OTHER_CLASSES}: begins anew"
        elif _begins_at_zero(key, network):
            report.missing[key] = "not in the weights: begins at zero effect"
    if wrong := [key for key in lacking if key not in report.missing]:
        raise InputError(f"start: the weights lack what the network needs, {fold(wrong)}; set its options to theirs")
    network.load_trainable_state({**own, **loaded})
    return report


def same_classes(own: Mapping[str, Any], about: Mapping[str, Any], labels: Sequence[str]) -> bool:
    """Whether weights are for the same classes: as many, and the same names in order where they say names."""
    if any(own.get(key) != about.get(key) for key in ("num_classes", "mask_tokens")):
        return False
    theirs = about.get("labels") or (about.get("preparation") or {}).get("labels")
    return theirs is None or list(theirs) == list(labels)


def base_fault(wanted: str | None) -> str:
    """Return what to tell where weights were made on other base weights than those at hand."""
    if wanted is None:
        return "made without base weights; set `base` to null"
    return f"made on other base weights; set `base` to the ones whose SHA-256 begins with {wanted[:12]}"


def _with_prompt_head(network: Segmenter, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return weights with SAM's own masks under the name of the prompt head too, where they have them and it trains."""
    given = dict(state)
    trains = network.prompt_head is not None and next(network.prompt_head.parameters()).requires_grad
    if trains and about.get("mask_tokens") == NUM_MASKS:
        for key, tensor in state.items():
            if key.removeprefix("sam.").startswith(PER_MASK_PARTS):
                given[key.replace("sam.mask_decoder.", _PROMPT_HEAD, 1)] = tensor
    return given


def _begins_at_zero(key: str, network: Segmenter) -> bool:
    """Whether a tensor belongs to an addition that changes nothing until it has trained."""
    if key.startswith(_ADDED):
        return network.base_sha256 is not None or key.startswith("fusion.")
    return any(part in key for part in _ADDED_WITHIN)
