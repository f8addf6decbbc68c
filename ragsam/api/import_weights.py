"""The job behind `ragsam import`: a published checkpoint as weights of ours, and as a run that segments at once."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ragsam.console.library_warnings import told_once
from ragsam.data.cards.load import Card, load_card
from ragsam.errors import InputError
from ragsam.files import atomic_write, sha256_file
from ragsam.networks.checkpoints import save_weights
from ragsam.networks.formats import usual_layout
from ragsam.networks.imports import import_checkpoint
from ragsam.networks.key_report import KeyReport
from ragsam.networks.segmenter import Segmenter
from ragsam.networks.tuning import TUNINGS
from ragsam.outputs import Outputs
from ragsam.runs.run import WEIGHTS, require_plain
from ragsam.runs.templates import find_bundle, require_free, write_run
from ragsam.transforms.layout import LAYOUTS

logger = logging.getLogger(__name__)

#: Packaged bundles by what tunes a network; any other is written as sam_lora.
_BUNDLES = {"adapter": "sam_adapter", "frequency": "sam_frequency"}
#: What a network says of itself that is no option of a bundle.
_NO_OPTIONS = ("num_classes", "base_sha256", "tuning")


@told_once()
def import_weights(
    kind: str,
    checkpoint: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    run: str | os.PathLike[str] | None = None,
    card: str | None = None,
    image_size: int | None = None,
    normalisation: str | None = None,
    slice_layout: str | None = None,
    thd: bool | None = None,
    activation: str | None = None,
    windows: str | None = None,
    overwrite: bool = False,
) -> KeyReport:
    """Write a published checkpoint as weights of ours, as a run, or as both; see `import_checkpoint`.

    Args:
        kind: the format.
        checkpoint: its file.
        base: the SAM that it was made on.
        output: safetensors file to write: to begin a training with.
        run: folder of a run to write: to segment with. Needs `card`.
        card: of the checkpoint's classes, in their order.
        image_size, normalisation, thd, activation, windows: what the file does not say; see `import_checkpoint`.
        slice_layout: of the slices that it was trained on, see `ragsam.transforms.layout`; None takes its format's.
        overwrite: replace an `output` that is not the package's own, see `Outputs`.

    Returns:
        What became of every key.

    Raises:
        InputError: as `import_checkpoint`; nothing to write, a card of other classes, or an output that is taken.
            Nothing is written then.
    """
    named = load_card(card) if card is not None else None
    if output is None and run is None:
        raise InputError("import: nothing to write; give --output, or --run with --card")
    if run is not None:
        if named is None:
            raise InputError("--run: needs the names of the classes; give --card")
        require_free(Path(run))
        require_plain(Path(run).absolute())
    if output is not None and Path(output).suffix != ".safetensors":
        raise InputError(f"--output {Path(output).name}: weights are written as safetensors; call it .safetensors")
    outputs: AbstractContextManager[object] = nullcontext()
    if output is not None:
        outputs = Outputs.of_file(output, reads=[checkpoint, *filter(None, (base,))], overwrite=overwrite)
    with outputs:
        network, report = import_checkpoint(
            kind,
            checkpoint,
            base=base,
            image_size=image_size,
            normalisation=normalisation,
            thd=thd,
            activation=activation,
            windows=windows,
        )
        if named is not None:
            _require_classes(network, named)
        about = _about(network, kind, sha256_file(checkpoint), named)
        about["slice_layout"] = _layout(kind, checkpoint, slice_layout or usual_layout(kind, network.about))
        if run is not None:
            _write_run(Path(run), network, about, str(card), base)
        if output is not None:
            save_weights(output, network.trainable_state(), about)
    return report


def _layout(kind: str, checkpoint: str | os.PathLike[str], layout: str | None) -> str:
    """Return how the slices were laid out that a checkpoint was trained on.

    Raises:
        InputError: neither its format nor the user says so, or there is no such layout.
    """
    if layout is None:
        raise InputError(
            f"{Path(checkpoint).name}: a {kind} file does not say how slices were laid out in its training; answer "
            "with --slice-layout: file (as the file stores them, [Y, X]) or ras ([X, Y] of RAS)"
        )
    if layout not in LAYOUTS:
        raise InputError(f"--slice-layout {layout}: no such layout; choose one of {', '.join(LAYOUTS)}")
    return layout


def _require_classes(network: Segmenter, card: Card) -> None:
    if network.num_classes != card.num_classes:
        raise InputError(
            f"{card.name}: the card has {card.num_classes} organs, the checkpoint {network.num_classes}; "
            "give a card with the checkpoint's, in their order"
        )


def _about(network: Segmenter, kind: str, sha256: str, card: Card | None) -> dict[str, Any]:
    """Return the metadata of imported weights."""
    lora = network.about["tuning"].get("lora")
    return {
        **network.about,
        "kind": kind,
        "rank": lora["rank"] if lora else None,
        "labels": list(card.labels) if card else None,
        "context_slices": int(network.stacked),  # the originals repeat the slice, but for stacks
        "checkpoint_sha256": sha256,
    }


def _write_run(
    run: Path, network: Segmenter, about: Mapping[str, Any], card: str, base: str | os.PathLike[str] | None
) -> None:
    """Write a bundle that has the network's weights; where that fails nothing is left."""
    tuning = network.about["tuning"]
    values: dict[str, Any] = {name: value for name, value in network.about.items() if name not in _NO_OPTIONS}
    values |= {name: tuning.get(name) for name in TUNINGS}
    values |= {name: about[name] for name in ("context_slices", "slice_layout")}
    values |= {"base": str(base) if base else None}
    bundle = next((name for part, name in _BUNDLES.items() if part in tuning), "sam_lora")
    weights, state = run / WEIGHTS, network.trainable_state()
    try:
        write_run(find_bundle(bundle), run, card, values)
        save_weights(weights, state, dict(about))
        with atomic_write(weights.with_suffix(".pt")) as temporary:
            torch.save(state, temporary)
    except InputError:
        shutil.rmtree(run, ignore_errors=True)
        raise
