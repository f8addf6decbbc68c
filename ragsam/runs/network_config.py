"""The network that a bundle's config describes, read as data: nothing of the config is run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import yaml

from ragsam.errors import InputError
from ragsam.io.documents import LOADER
from ragsam.networks import Segmenter
from ragsam.runs.settings import is_made_by_monai

#: What of a `network_def` is no option of `Segmenter`.
_NO_OPTIONS = ("_target_", "num_classes", "weights", "preparation")
#: What weights say of their network, by the names of the options of `Segmenter`.
DESCRIBED = (
    *("backbone", "image_size", "patch_size", "full_tuning", "detail", "fusion", "prompts", "normalisation"),
    *("mask_tokens", "enlarged", "efficient_decoder"),
)
#: What weights of before do not say, and what they were made with.
_BEFORE = {"enlarged": "logits", "efficient_decoder": None}


def described_options(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `Segmenter` that a weights file's metadata give; the base and the number of classes apart.

    Raises:
        InputError: weights that say nothing of one.
    """
    about = {**_BEFORE, **about}
    for name in (*DESCRIBED, "tuning"):
        if name not in about:
            raise InputError(f"the weights do not state {name}; make them again with this version")
    return {**{name: about[name] for name in DESCRIBED}, **about["tuning"]}


def network_options(text: str, num_classes: int) -> dict[str, Any]:
    """Return the options of `Segmenter` that a config's `network_def` gives, options filled in.

    Of a config whose network is that of its weights they are those of the network until there are some.

    Args:
        text: a config of a bundle.
        num_classes: organs, which the config takes from the card.

    Raises:
        InputError: a config without `network_def`, or with an expression in it.
    """
    config = yaml.load(text, LOADER)
    if not isinstance(config, Mapping) or not isinstance(config.get("network_def"), Mapping):
        raise InputError("the bundle's config has no `network_def`; take it from a bundle of this package")
    options: dict[str, Any] = {"num_classes": num_classes}
    for name, value in config["network_def"].items():
        if name in _NO_OPTIONS:
            continue
        if str(value).startswith("@"):
            value = config.get(value[1:])
        options[name] = _plain(f"network_def.{name}", value)
    if "untrained" in options:
        untrained = options.pop("untrained") or {}
        options |= {name: _plain(f"untrained.{name}", value) for name, value in untrained.items()}
        options.setdefault("image_size", _plain("image_size", config.get("image_size")))
    return options


def _plain(name: str, value: Any) -> Any:
    """Return a value that a config has as it is; refuse what is only made when MONAI runs the config."""
    if is_made_by_monai(value) or (isinstance(value, Mapping) and "_target_" in value):
        raise InputError(f"{name}: {value} is an expression; write its value")
    return value


def input_channels(text: str) -> int:
    """Return how many channels the slices of a config have: one a slice of the context; a lone slice stands in three.

    Args:
        text: a config of a bundle.
    """
    return channels_of(yaml.load(text, LOADER))


def channels_of(config: Mapping[str, Any]) -> int:
    """Return the same of a config read as data; raises InputError where it is an expression."""
    return max(3, 2 * (_plain("context_slices", config.get("context_slices")) or 0) + 1)


def build_empty(options: Mapping[str, Any]) -> Segmenter:
    """Build a network without memory for its weights: to count and to check it.

    Raises:
        InputError: options that do not go together, or base weights that do not fit.
    """
    told = logging.getLogger("ragsam.networks")
    level = told.level
    told.setLevel(logging.WARNING)  # what the network says of itself is for the one that trains
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*from a non-meta parameter")  # base weights have no place there
            return Segmenter(**options)
    except InputError:  # names its file already
        raise
    except (ValueError, TypeError) as error:
        reason = str(error).replace(".__init__() got an unexpected keyword argument", " has no option")
        raise InputError(f"network: {reason}") from error
    finally:
        told.setLevel(level)
