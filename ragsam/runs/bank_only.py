"""Without training: a packaged bundle whose network is the vote, prepared as its bank says.

The bundle's configs are read where they are installed, and a few of their entries replaced; no run is written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.io.documents import check_schema
from ragsam.networks.checkpoints import load_metadata
from ragsam.retrieval.bank_manifest import MANIFEST, read_manifest
from ragsam.retrieval.descriptors import DESCRIPTORS
from ragsam.runs.base import settled_base
from ragsam.runs.options import OPTIONS
from ragsam.runs.run import WEIGHTS, RunFolder, require_plain
from ragsam.runs.settings import checked_options, read_options
from ragsam.runs.templates import find_bundle, fitting_image_size
from ragsam.runs.weights import require_layout
from ragsam.transforms.layout import DEFAULT_LAYOUT

logger = logging.getLogger(__name__)

BUNDLE = "sam_lora"
#: How a bank's slices are prepared and found; what may be set when it is made without a run.
INDEX_OPTIONS = ("image_size", "spacing_mm", "slice_axis", "slice_layout", "descriptor", "carry")
#: Of a bank's `fit`, what a config takes by the same names.
_OF_BANK = (
    *("image_size", "slice_axis", "slice_layout", "context_slices", "context_distance_mm", "spacing_mm"),
    *("descriptor", "carry"),
)
#: Known base weights that saw slices as files store them.
_OF_FILES = ("medsam", "litemedsam")
_FIT = {
    "type": "object",
    "required": ["card", "labels", "window", *_OF_BANK],
    "properties": {
        "labels": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        "window": {"type": ["array", "null"], "minItems": 2, "maxItems": 2, "items": {"type": "number"}},
        **{name: OPTIONS[name].schema for name in _OF_BANK},
    },
}
_NETWORK = {
    "_target_": "ragsam.retrieval.voting.VotingNetwork",
    "num_classes": "$@card_def.num_classes",
    "image_size": "@image_size",
}


def bank_values(datalist: str | os.PathLike[str], section: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `train.yaml` to make a bank of a datalist's labelled cases.

    The image size, where it is not among the options, is found as for a run.

    Args:
        section: of the datalist.
        options: values of `INDEX_OPTIONS`.

    Raises:
        InputError: faulty datalist or card, an unknown option or one of another kind, or a descriptor that looks at an
            encoder.
    """
    unknown = sorted(set(options) - set(INDEX_OPTIONS))
    if unknown:
        raise InputError(f"--set {unknown[0]}: no option of a bank; there are {', '.join(INDEX_OPTIONS)}")
    data = load_datalist(datalist)
    text = RunFolder(find_bundle(BUNDLE), "train").text("train")
    values = checked_options(text, options)
    require_plain(data.path, data.card)
    slices = read_options(text) | values
    free = [name for name, descriptor in DESCRIPTORS.items() if not descriptor.needs_embedding]
    if slices["descriptor"] not in free:
        raise InputError(f"--set descriptor: {slices['descriptor']!r}; without a run choose one of {', '.join(free)}")
    if "image_size" not in values:
        cases = data.section(section)
        preparation = [slices[name] for name in ("spacing_mm", "slice_axis", "slice_layout")]
        values["image_size"] = fitting_image_size(cases, *preparation)
    return {**values, "datalist": str(data.path), "card": data.card}


def grown_values(folder: Path, datalist: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the entries of `train.yaml` to put a datalist's cases beside those of a bank, prepared as these were.

    Raises:
        InputError: no bank, or one that needs an encoder; or a faulty datalist.
    """
    fit = _encoderless(folder, "name the RUN that it was made with")
    data = load_datalist(datalist)
    require_plain(data.path, data.card)
    return {"datalist": str(data.path), "card": data.card, **_as_bank(fit, "train#preprocessing#window")}


def segment_values(
    card: str | os.PathLike[str], folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Return the entries of `inference.yaml` to segment by the vote of a bank, slices prepared as the bank's.

    Args:
        card: a card's name, or the path of its yaml file; its labels must be the bank's.
        folder: of the bank.
        base: weights that the vote prompts, see `ragsam.prompting.prompted_vote`; None: the vote alone.

    Raises:
        InputError: no such card, no bank, a bank of other labels, or one whose descriptor looks at an encoder.
    """
    named = load_card(card)
    folder = Path(folder).absolute()
    fit = _encoderless(folder, "make one without a run with `ragsam index --data DATALIST --output BANK`")
    theirs = ", ".join(fit["labels"])
    ours = ", ".join(named.labels)
    if theirs != ours:
        raise InputError(f"bank {folder.name}: of {theirs}, and card {named.name} has {ours}; take the bank's own card")
    path = str(card)
    if path.endswith((".yaml", ".yml")):
        path = str(Path(card).absolute())
    network = dict(_NETWORK)
    if base is not None:
        base = settled_base(base)
        require_plain(base)
        _compare(Path(base), fit)
        network |= {"_target_": "ragsam.prompting.prompted_vote.prompted_vote", "base": base}
    return {
        "card": path,
        "bank": str(folder),
        **_as_bank(fit, "preprocessing#window"),
        "weights": None,
        "network_def": network,
        "steered_by": "vote_product",
    }


def packaged_parser(values: Mapping[str, Any]) -> Any:
    """Return the packaged bundle's training config for a bank: its network the vote, and see `plain_slices`."""
    parser = RunFolder(find_bundle(BUNDLE), "train").parser("train", **{**values, "network_def": dict(_NETWORK)})
    return plain_slices(parser)


def plain_slices(parser: Any) -> Any:
    """Make `train#dataset` of a training config a function of `data` that gives unaugmented slices."""
    parser["train#dataset#_mode_"] = "callable"
    parser["train#dataset#data"] = []
    parser["train#dataset#pseudo_labelled"] = []
    parser["train#dataset#augmentation"] = None
    return parser


def _as_bank(fit: Mapping[str, Any], window: str) -> dict[str, Any]:
    """Return a config's entries for slices prepared as a bank's; `window` names the entry of the window."""
    preparation = {name: value for name, value in fit.items() if name not in ("descriptor", "carry")}
    return {**{name: fit[name] for name in _OF_BANK}, window: fit["window"], "preparation": preparation}


def _compare(base: Path, fit: Mapping[str, Any]) -> None:
    """Tell how the slices that a run was trained on differ from a bank's, which it is to be prompted in.

    Raises:
        InputError: weights that were trained on slices of another layout.
    """
    _require_layout(base, fit["slice_layout"])
    if not RunFolder.is_one(base):
        return
    theirs = RunFolder(base).content("inference")
    for name in ("image_size", "spacing_mm", "slice_axis"):
        if theirs.get(name) != fit[name]:
            told = "--base %s: %s was %s in its training and is %s in the bank; it may answer worse"
            logger.warning(told, base.name, name, theirs.get(name), fit[name])


def _require_layout(base: Path, layout: str) -> None:
    """Refuse weights of ours that see a bank's slices mirrored or turned; SAM's own have seen none of either layout."""
    weights = base / WEIGHTS if base.is_dir() else base
    if base.name in _OF_FILES and layout != "file":
        told = "--base %s: trained on slices as files store them; index with --set slice_layout=file to show it such"
        logger.warning(told, base.name)
    if weights.suffix != ".safetensors" or not weights.is_file():
        return
    about = load_metadata(weights)
    theirs = require_layout(weights, about)
    if theirs != layout and about.get("kind") != "sam":
        told = f"--base {base.name}: trained on slices of slice_layout {theirs}, the bank's are {layout}"
        raise InputError(f"{told}; make the bank with `ragsam index --set slice_layout={theirs}`")


def _encoderless(folder: Path, way: str) -> dict[str, Any]:
    """Return what a bank was made for; refuse one that is found by an encoder."""
    fit = {"slice_layout": DEFAULT_LAYOUT, **read_manifest(folder)["fit"]}
    check_schema(fit, _FIT, f"bank {folder.name}: {MANIFEST}: fit")
    if DESCRIPTORS[fit["descriptor"]].needs_embedding:
        raise InputError(f"bank {folder.name}: needs the encoder of a run; {way}")
    return fit
