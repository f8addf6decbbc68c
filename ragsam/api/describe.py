"""What a bundle or a run is: which parts of its network are frozen, which train, and what it takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ragsam.console.library_warnings import told_once
from ragsam.data.cards.load import load_card
from ragsam.errors import InputError
from ragsam.networks.bases import BASES
from ragsam.networks.counting import count_parts
from ragsam.networks.sam import build_sam
from ragsam.networks.segmenter import Segmenter
from ragsam.runs.network_config import build_empty, input_channels, network_options
from ragsam.runs.run import RunFolder
from ragsam.runs.settings import checked_options, set_options
from ragsam.runs.templates import find_bundle

_NUMBERS = ("trained", "frozen", "flops")


@told_once()
def describe(
    bundle: str | os.PathLike[str], *, card: str | None = None, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a bundle's network consists of. No memory is taken for its weights, and base weights are not read.

    Args:
        bundle: a bundle's or run's folder, or the name of a packaged bundle.
        card: of the data set, which gives the number of classes; None takes a run's own.
        options: values by the name of an option of `train.yaml`.

    Returns:
        name, card, network (what a weights file would say of it), base (name of the base weights, or None), parts
        (name, trained, frozen, flops), their sums, weights_bytes, and measured: whether that is the size of a file.

    Raises:
        InputError: no bundle, no card, or options that do not go together.
    """
    folder = find_bundle(bundle)
    run = RunFolder(folder, "train")
    if card is None and not run.card_path.is_file():
        raise InputError(f"--card: {folder.name} is for any data set, whose card gives the classes; name one")
    data = load_card(card if card is not None else run.card_path)
    text = run.text("train")
    values = checked_options(text, options or {})
    if str(values.get("base")) in BASES:
        values = BASES[values["base"]].options | values
    text = set_options(text, values)
    given = network_options(text, data.num_classes)
    network = _counted(given)
    parts = [asdict(part) for part in count_parts(network, channels=input_channels(text))]
    measured = run.weights.is_file() and card is None and not options
    return {
        "name": Path(bundle).name or folder.resolve().name,
        "card": data.name,
        "network": {name: value for name, value in network.about.items() if name != "base_sha256"},
        "base": Path(given["base"]).name if given.get("base") else None,
        "parts": parts,
        **{number: sum(part[number] for part in parts) for number in _NUMBERS},
        "weights_bytes": run.weights.stat().st_size if measured else _tensor_bytes(network),
        "measured": measured,
    }


def description_text(about: Mapping[str, Any]) -> str:
    """Return a description as lines for a terminal, the parts in a table."""
    network = about["network"]
    size, base = network["image_size"], about["base"]
    rows = [("part", "trained", "frozen", "GFLOP a slice")]
    rows += [_row(part["name"], part) for part in about["parts"]] + [_row("total", about)]
    lines = [
        f"{about['name']}: {network['backbone']}, slices of {size} x {size} in patches of {network['patch_size']}, "
        f"{network['num_classes']} organs ({about['card']})",
        f"base weights: {base} (not opened: its name is enough here)" if base else "base weights: none",
        "",
        *_aligned(rows),
        "",
        f"weights file: {'' if about['measured'] else 'about '}{about['weights_bytes'] / 2**20:.1f} MiB",
        "a multiply-add counts as 2 FLOP",
    ]
    return "\n".join(lines)


def _counted(options: Mapping[str, Any]) -> Segmenter:
    """Build a network without memory; where it has base weights, on some of the right shapes and no values."""
    if not options.get("base"):
        return build_empty(options)
    with _valueless_sam(options) as base:
        return build_empty({**options, "base": base})


@contextmanager
def _valueless_sam(options: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a file of SAM's keys and shapes alone, some kilobytes."""
    try:
        with torch.device("meta"):
            size = {name: options[name] for name in ("image_size", "patch_size") if name in options}
            sam = build_sam(options["backbone"], **size)
    except ValueError as error:
        raise InputError(f"network: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sam.pth"
        torch.save(sam.state_dict(), path)
        yield path


def _tensor_bytes(network: Segmenter) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.trainable_state().values())


def _row(name: str, counts: Mapping[str, int]) -> tuple[str, ...]:
    return name, f"{counts['trained']:,}", f"{counts['frozen']:,}", f"{counts['flops'] / 1e9:,.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *cells])
