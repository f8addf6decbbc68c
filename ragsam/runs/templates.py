"""Runs as bundles: a bundle with its options set for a data set."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib

from ragsam.data.cards.load import Card, load_card
from ragsam.data.cards.own_numbers import card_text_with
from ragsam.data.checks.check_case import read_volume_checked
from ragsam.data.datalist import Case, load_datalist
from ragsam.errors import InputError
from ragsam.files import write_json_atomic, write_text_atomic
from ragsam.io.read_volume import open_volume
from ragsam.networks.checkpoints import load_metadata
from ragsam.networks.sam import BACKBONES
from ragsam.outputs import Outputs
from ragsam.runs.base import base_options, settled_base
from ragsam.runs.metadata import fill_metadata, read_metadata
from ragsam.runs.network_config import build_empty, network_options
from ragsam.runs.options import BUNDLES, untrained_network
from ragsam.runs.run import RunFolder, require_plain
from ragsam.runs.settings import checked_options, read_options, set_options
from ragsam.runs.start import require_base, start_file, start_options
from ragsam.runs.weights import PREPARED, differences
from ragsam.transforms.layout import DEFAULT_LAYOUT

logger = logging.getLogger(__name__)

CONFIGS = ("train", "inference", "evaluate")
OVERLAYS = ("multi_gpu_train.yaml", "multi_gpu_evaluate.yaml")
LARGEST_SLICE = 512


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundle: a path that holds `configs/`, or the name of a packaged template.

    Raises:
        InputError: neither.
    """
    for folder in (Path(name_or_path), BUNDLES / Path(name_or_path).name):
        if (folder / "configs" / "train.yaml").is_file():
            return folder
    known = sorted(path.parts[-3] for path in BUNDLES.glob("*/configs/train.yaml"))
    missing = f"{name_or_path}: no bundle there (no configs/train.yaml)"
    raise InputError(f"{missing}; take a bundle's folder or one of {', '.join(known)}")


def make_run(
    bundle: str | os.PathLike[str],
    datalist: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    *,
    again: bool = False,
) -> Path:
    """Write a run: the bundle with its options set, its metadata made from the data set's card.

    The image size, where it is not set, is the smallest multiple of 16 (of 32 for a Hiera) that holds the training
    slices, at most 512; larger slices are seen through windows. Where it starts with weights, the network's options are
    theirs.

    Args:
        options: of `train.yaml`, by name.
        again: write a run that is there already again.

    Raises:
        InputError: unknown option or one of another type, faulty datalist or card, or an output that holds something.
    """
    source = find_bundle(bundle)
    target = Path(output)
    written = (target / "configs").is_dir()
    if not (again and written):
        require_free(target)
    data = load_datalist(datalist)
    require_plain(target.absolute(), data.path)
    text = _text(source, "train")
    values = given_values(text, data.path, options or {})
    if values.get("start"):
        card = load_card(data.card)
        values = start_options(Path(values["start"]), values, card.num_classes)
    elif values.get("base"):
        values = base_options(values["base"]) | values
    if "image_size" not in values:
        cases = data.section("training")
        slices = read_options(text) | values
        values["image_size"] = fitting_image_size(
            cases,
            slices.get("spacing_mm"),
            slices.get("slice_axis", 2),
            slices.get("slice_layout", DEFAULT_LAYOUT),
            BACKBONES[slices["backbone"]].image_step,
        )
    if values.get("start"):
        _tell_other_slices(Path(values["start"]), read_options(text) | values, card)
    write_run(source, target, data.card, values, data.label_map)
    return target


def _tell_other_slices(start: Path, options: Mapping[str, Any], card: Card) -> None:
    """Say what slices weights to start with were made for, where a training has others: it has to adapt to them."""
    own = {**{name: options[name] for name in PREPARED if name in options}, "window": card.window}
    for name, made, have in differences(load_metadata(start), own):
        logger.warning("start: %s was made for %s %s, this training has %s", start.name, name, made, have)


def given_values(text: str, datalist: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a command gives a training's config, checked, with the datalist, paths absolute."""
    values: dict[str, Any] = {"datalist": str(datalist), **checked_options(text, options)}
    if values.get("base"):
        values["base"] = settled_base(values["base"])
    if values.get("start"):
        values["start"] = str(start_file(Path(values["start"])))
    if values.get("pseudo_labels"):
        values["pseudo_labels"] = str(Path(values["pseudo_labels"]).absolute())
    return values


def write_run(
    bundle: Path, target: Path, card: str, values: Mapping[str, Any], label_map: Mapping[int, int] | None = None
) -> None:
    """Write a run's files: a bundle's, with options set, and the metadata and the card of a data set.

    Args:
        bundle: folder of the bundle.
        target: folder of the run.
        card: a packaged card's name, or the path of one.
        values: options, checked; `image_size` is among them.
        label_map: of the datalist, whose numbers the run can then write.

    Raises:
        InputError: options that do not go together, or base weights that do not fit; nothing is written then. A file
            of another program that would be replaced.
    """
    values = dict(values)
    if values.get("base"):
        values["base"] = settled_base(values["base"])
    train = set_options(_text(bundle, "train"), values)
    options = {"context_slices": 1, **read_options(train)}
    named = load_card(card)
    network = build_empty(network_options(train, named.num_classes))  # fails early if the options cannot work
    _check_context(options["context_slices"], stacked=network.stacked)
    _require_options(bundle, values, options)
    if values.get("start"):
        require_base(Path(values["start"]), network.base_sha256)
    values["untrained"] = untrained_network(options)
    texts = {f"configs/{name}.yaml": set_options(_text(bundle, name), values) for name in CONFIGS}
    texts["configs/card.yaml"] = card_text_with(card, label_map)
    metadata = fill_metadata(read_metadata(bundle / "configs" / "metadata.json"), named, options)
    copied = ["configs/logging.conf", *(f"configs/{name}" for name in OVERLAYS), "LICENSE"]
    copied += [path.relative_to(bundle).as_posix() for path in sorted((bundle / "docs").rglob("*"))]
    copied = [name for name in copied if (bundle / name).is_file()]
    with Outputs(target, [*texts, "configs/metadata.json", *copied]):  # what is there of another program stays
        for name, text in texts.items():
            write_text_atomic(target / name, text)
        write_json_atomic(target / "configs" / "metadata.json", metadata)
        for name in copied:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, target / name)


def require_free(target: Path) -> None:
    """Check that a run can be written there.

    Raises:
        InputError: something is there already.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    what = "is not empty"
    ways = "choose another output, or remove it"
    if (target / "configs").exists():
        what = "is a run already"
    if (target / "checkpoints").is_dir():
        ways += ", or resume its training with --resume"
    raise InputError(f"{target}: {what}; {ways}")


def _text(bundle: Path, name: str) -> str:
    return RunFolder(bundle, name).text(name)


def _check_context(context_slices: int, *, stacked: bool) -> None:
    """Refuse neighbours that the network has no place for: only a stack may be of more than three slices."""
    if stacked and context_slices == 0:
        raise InputError("--set context_slices: the depth adapter needs neighbours; choose 1 or more")
    if not stacked and context_slices > 1:
        raise InputError("--set context_slices: the network takes three channels; choose 0 or 1, or a depth adapter")


def _require_options(bundle: Path, values: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse what weights need and a bundle of an earlier version cannot have: its configs lack the option."""
    for name, default in {"slice_layout": DEFAULT_LAYOUT, "efficient_decoder": None}.items():
        wanted = values.get(name, default)
        if options.get(name, default) != wanted:
            raise InputError(f"{bundle.name}: has no {name}, and {wanted} is needed; take a bundle of this version")


def fitting_image_size(
    cases: Sequence[Case],
    spacing_mm: Sequence[float] | None = None,
    slice_axis: int = 2,
    slice_layout: str = DEFAULT_LAYOUT,
    step: int = 16,
) -> int:
    """Return the smallest multiple of a step that holds every slice, at most `LARGEST_SLICE`.

    Args:
        spacing_mm, slice_axis, slice_layout: see `ragsam.transforms.preprocessing`.
        step: pixels; divides `LARGEST_SLICE`.
    """
    largest = 0.0
    for case in cases:
        try:
            largest = max(largest, _largest_side(case, spacing_mm, slice_axis, slice_layout))
        except Exception as error:  # nibabel has many for files that it cannot make sense of
            read_volume_checked(case.image, case.case)  # reports what is wrong
            raise InputError(f"{case.case}: the image's grid cannot be read; export the volume again") from error
    return min(LARGEST_SLICE, -(-int(-(-largest // 1)) // step) * step)


def _largest_side(case: Case, spacing_mm: Sequence[float] | None, slice_axis: int, slice_layout: str) -> float:
    """Return the longer side in pixels of a volume's slices across an axis of RAS or of its file, by its affine."""
    image = open_volume(case.image, case.case)
    zooms = nib.affines.voxel_sizes(image.affine)
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    largest = 0.0
    worlds = nib.io_orientation(image.affine)[:, 0] if slice_layout == "ras" else range(3)
    for axis, world in enumerate(worlds[: len(image.shape)]):
        if world not in in_plane:
            continue
        side = image.shape[axis]
        if spacing_mm:
            side = side * (zooms[axis] / spacing_mm[in_plane.index(world)])
        largest = max(largest, side)
    return largest
