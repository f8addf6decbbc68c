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
_OTHER_CLASSES = "other classes than the network's"
_SET_OPTIONS = "set its options to those of the weights"


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
        InputError: weights made on another base or for another mask decoder, or a key or shape that does not fit.
    """
    if about.get("base_sha256") != network.base_sha256:
        raise InputError(f"start: {base_fault(about.get('base_sha256'))}")
    decoder = about.get("efficient_decoder")
    if decoder != network.about["efficient_decoder"]:  # its tensors have the same names
        raise InputError(f"start: efficient_decoder is {decoder or 'null'} in the weights; {_SET_OPTIONS}")
    left_out = () if same_classes(network.about, about, labels) else _OF_CLASSES
    own = network.trainable_state()
    report = KeyReport()
    loaded = {}
    for key, tensor in _with_prompt_head(network, state, about).items():
        if key.startswith(left_out):
            report.ignored[key] = _OTHER_CLASSES
            continue
        if key not in own:
            raise InputError(f"start: {key} has no place in the network; {_SET_OPTIONS}")
        shape, needed = tuple(tensor.shape), tuple(own[key].shape)
        if shape != needed:
            raise InputError(f"start: {key} is {shape}, the network needs {needed}; {_SET_OPTIONS}")
        report.used.append(key)
        loaded[key] = tensor
    lacking = []
    for key in own:
        if key in loaded:
            continue
        if key.startswith(left_out):
            report.missing[key] = f"{_OTHER_CLASSES}: starts from its initial values"
        elif _begins_at_zero(key, network):
            report.missing[key] = "not in the weights: starts at zero effect"
        else:
            lacking.append(key)
    if lacking:
        raise InputError(f"start: the weights lack what the network needs, {fold(lacking)}; set its options to theirs")
    network.load_trainable_state({**own, **loaded})
    return report


def same_classes(own: Mapping[str, Any], about: Mapping[str, Any], labels: Sequence[str]) -> bool:
    """Whether weights are for the same classes: as many, and the same names in order where they say names."""
    for key in ("num_classes", "mask_tokens"):
        if own.get(key) != about.get(key):
            return False
    preparation = about.get("preparation") or {}
    theirs = about.get("labels") or preparation.get("labels") or labels
    return list(theirs) == list(labels)


def base_fault(wanted: str | None) -> str:
    """Return what to tell where weights were made on other base weights than those at hand."""
    if wanted is None:
        return "made without base weights; set `base` to null"
    return f"made on different base weights; set `base` to the ones whose SHA-256 starts with {wanted[:12]}"


def _with_prompt_head(
    network: Segmenter, state: Mapping[str, Tensor], about: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """Return weights with SAM's own masks under the name of the prompt head too, where they have them and it trains."""
    head = network.prompt_head
    if head is None or about.get("mask_tokens") != NUM_MASKS or not head.mask_tokens.weight.requires_grad:
        return state
    given = dict(state)
    for key, tensor in state.items():
        if key.removeprefix("sam.").startswith(PER_MASK_PARTS):
            given[key.replace("sam.mask_decoder.", "prompt_head.", 1)] = tensor
    return given


def _begins_at_zero(key: str, network: Segmenter) -> bool:
    """Whether a tensor belongs to an addition that changes nothing until it has trained."""
    if key.startswith("fusion."):
        return True
    if key.startswith(("stem.", "detail.")):
        return network.base_sha256 is not None
    return any(part in key for part in (".updates.", "_adapter.", ".frequency."))
