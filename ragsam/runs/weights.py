"""A run's weights: loaded when an engine starts, and only where the run is what they were made for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ragsam.errors import InputError
from ragsam.networks.checkpoints import load_weights
from ragsam.networks.segmenter import Segmenter
from ragsam.runs.run import RunFolder
from ragsam.runs.settings import is_made_by_monai
from ragsam.transforms.layout import DEFAULT_LAYOUT

#: Of the slices and organs: what must be in segmenting as it was in training.
PREPARED = (
    *("image_size", "slice_axis", "slice_layout", "context_slices", "context_distance_mm", "spacing_mm"),
    *("window", "labels"),
)
#: Of the network, what may be another while its weights are the same.
_OPEN = ("prompts", "tuning", "full_tuning")


def differences(about: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what a weights file and a run both say and say differently: its name, what the file says, what the run.

    Args:
        about: the file's metadata; what they do not say, but for the layout of slices, is not compared.
        own: the same of the run, by the names of a network's `about` and of a config's `preparation`.
    """
    for said in ({**about, "slice_layout": slice_layout_of(about)}, about.get("preparation") or {}):
        for name in sorted(own.keys() & said.keys() - {"card"}):  # which has a name, and what counts of it is there
            unsaid = name == "labels" and said[name] is None
            if not unsaid and _plain(said[name]) != _plain(own[name]):
                yield name, _shown(said[name]), _shown(own[name])


def slice_layout_of(about: Mapping[str, Any]) -> str | None:
    """Return the layout of slices that weights were trained in; None where it cannot be known, see `require_layout`."""
    said = about.get("slice_layout") or (about.get("preparation") or {}).get("slice_layout")
    if said is None and about.get("kind", "sam") == "sam":
        return DEFAULT_LAYOUT
    return said


def require_layout(weights: Path, about: Mapping[str, Any]) -> str:
    """Return the layout of slices that weights were trained in.

    Raises:
        InputError: weights that an earlier version imported, which fed them slices in a layout other than their own.
    """
    layout = slice_layout_of(about)
    if layout is None:
        raise InputError(
            f"{weights.name}: imported from {about['kind']} by an earlier version, which did not keep how its slices "
            "are laid out; import the checkpoint again"
        )
    return layout


def require_made_for(weights: Path, about: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse weights that were made for something else than a run says; see `differences`.

    Raises:
        InputError: of the first difference, or as `require_layout`.
    """
    require_layout(weights, about)
    for name, made, have in differences(about, own):
        raise InputError(f"{weights.name}: made for {name} {made}, the run has {have}; leave it as in training")


def said_by_run(folder: RunFolder) -> dict[str, Any]:
    """Return what a run's `inference.yaml` and its card say of slices, organs and network; nothing of them is run."""
    content = folder.content("inference")
    untrained = content.get("untrained")
    if isinstance(untrained, Mapping) and "normalisation" in untrained:
        content["normalisation"] = untrained["normalisation"]
    own = {name: content[name] for name in (*PREPARED, "normalisation") if name in content}
    own = {name: value for name, value in own.items() if not is_made_by_monai(value)}
    own.setdefault("slice_layout", DEFAULT_LAYOUT)
    if folder.card_path.is_file():
        card = folder.card
        own |= {"labels": list(card.labels), "num_classes": card.num_classes, "window": card.window}
    return own


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


class WeightsLoader:
    """Loads a run's weights when an engine starts.

    Args:
        network: receives them.
        path: `model.safetensors` of a run.

    Raises:
        InputError: at the start, for weights that are missing, damaged, made on other base weights, or for something
            else than the network, or the run that they are in.
    """

    def __init__(self, network: Segmenter, path: str | os.PathLike[str]) -> None:
        self.network = network
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Register with an engine."""
        engine.add_event_handler(Events.STARTED, self.load)

    def load(self, engine: Engine | None = None) -> None:
        """Read and load the weights."""
        state, metadata = load_weights(self.path)
        if metadata.get("base_sha256") != self.network.base_sha256:
            raise InputError(
                f"{self.path.name}: made on different base weights; set `base` to the ones it was trained on"
            )
        own = {name: value for name, value in self.network.about.items() if name not in _OPEN}
        require_made_for(self.path, metadata, own)
        root = self.path.absolute().parent.parent
        if RunFolder.is_one(root):
            require_made_for(self.path, metadata, said_by_run(RunFolder(root)))
        self.network.load_trainable_state(state)
