"""Published checkpoints into a network of ours, every key accounted for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ragsam.errors import InputError
from ragsam.networks.checkpoints import differs_in_size_alone, is_state_dict, read_checkpoint, resize
from ragsam.networks.encoders import family_name, family_of
from ragsam.networks.formats import FORMATS, Format
from ragsam.networks.key_report import KeyReport, fold
from ragsam.networks.published import NAMES
from ragsam.networks.sam2_keys import SAM2_STATE, sam_names
from ragsam.networks.segmenter import Segmenter

#: Answers that are asked of one format alone, and what the others have.
_ONLY_ASKED = {"thd": "no 3D mode", "activation": "SAM's own mask decoder", "windows": "SAM's own windows"}
#: What training on several GPUs puts before every name.
_PARALLEL = "module."


def import_checkpoint(
    kind: str,
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    normalisation: str | None = None,
    thd: bool | None = None,
    activation: str | None = None,
    windows: str | None = None,
) -> tuple[Segmenter, KeyReport]:
    """Build the network that a published checkpoint is made for, and load it.

    The network has neither detail branch nor fusion: it gives what the original gives for the same input. Of a full SAM
    it takes the first mask for its one organ.

    Args:
        kind: of `FORMATS`.
        path: the checkpoint.
        base: SAM that the checkpoint was made on; whatever the original left as it was must be the base's. None, where
            the checkpoint holds a whole SAM, makes a network that needs no base.
        image_size: pixels; None takes the checkpoint's, or its format's usual one.
        normalisation: of the slices; None takes its format's usual one.
        thd: whether Medical-SAM-Adapter trained in 3D mode.
        activation, windows: of its files from 2024-01 on, see `medical_sam_adapter_options`.

    Returns:
        The network, and what became of every key.

    Raises:
        InputError: a checkpoint that is damaged or of another format, another base, or a key that nothing explains.
    """
    form = FORMATS[kind]
    report = KeyReport()
    file = Path(path).name
    if base is not None and not Path(base).is_file():
        raise InputError(f"--base: {base}: no such file; check the path")
    if image_size is not None and image_size < 1:
        raise InputError(f"--image-size {image_size}: at least a patch of pixels is needed; leave it out for the usual")
    answers = {"image_size": image_size, "normalisation": normalisation, "thd": thd}
    answers |= {"activation": activation, "windows": windows}
    for name, why in _ONLY_ASKED.items():
        if answers[name] is not None and name not in form.asks:
            raise InputError(f"--{name}: {kind} has {why}; leave it out")
    state = _state_of(path, form, report)
    if base is None and not form.whole:
        raise InputError(f"{file}: holds only what was tuned; give the SAM that it was made on with --base")
    try:
        options = {"image_size": form.image_size, "normalisation": form.normalisation}
        options |= form.options(state, **{name: answers[name] for name in form.asks})
        if image_size is not None:
            options["image_size"] = image_size
        if normalisation is not None:
            options["normalisation"] = normalisation
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    positions = options.pop("positions", "bilinear")
    if base is not None and options.get("efficient_decoder") is not None:
        raise InputError(f"--base: {file} keeps relative positions of its own, no base's; leave it out")
    network = _built(base, options, full_tuning=form.full_tuning, file=file)
    try:
        fill(network, state, NAMES[kind](network), report, form, positions=positions)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    return network, report


def _built(
    base: str | os.PathLike[str] | None, options: Mapping[str, Any], *, full_tuning: bool, file: str
) -> Segmenter:
    """Return the network; what is wrong with its base weights is reported under their own name."""
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights are not kept
            full_tuning = full_tuning and base is not None
            return Segmenter(base=base, full_tuning=full_tuning, detail=False, fusion=None, **options)
    except InputError as error:
        raise InputError(f"--base {Path(str(base)).name}: {error}") from error
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error


def fill(
    network: Segmenter,
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    report: KeyReport,
    form: Format,
    *,
    positions: str = "bilinear",
) -> None:
    """Load a state dict into a network, in place, strictly.

    Args:
        names: the format's names to ours.
        report: takes the account.
        positions: how the position embedding is resized.

    Raises:
        InputError: a key without a place, a tensor that is missing, misshapen, not finite, or not the base's where the
            format leaves the base as it was.
    """
    own = network.state_dict()
    trained = set(network.trainable_state())
    placed = _placed(state, names, report, form)
    loaded = {}
    for key, tensor in placed.items():
        name = names[key]
        wanted = own[name]
        if tensor.shape != wanted.shape and not differs_in_size_alone(name, tensor.shape, wanted.shape):
            raise InputError(f"{key} is {tuple(tensor.shape)}, the network needs {tuple(wanted.shape)}; check the file")
        counter = name.endswith("num_batches_tracked")  # of a batch normalisation, a whole number
        if not tensor.numel() or not (counter or tensor.is_floating_point()) or not tensor.float().isfinite().all():
            raise InputError(f"{key}: no numbers, or NaN or infinity among them; fetch the file again")
        if name not in trained:
            report.ignored[key] = _told_as_base(key, tensor, wanted)
        elif tensor.shape == wanted.shape:
            loaded[name] = tensor.to(wanted.dtype)
            report.used.append(key)
        else:
            loaded[name] = resize(name, tensor, wanted.shape, positions=positions)
            report.resized.append(key)
    needed = trained.union(names.values()) - {names[key] for key in placed}
    for name in own:
        if name in needed:
            report.missing[name] = _why_absent(name, form)
    network.load_state_dict(loaded, strict=False)


def _state_of(path: str | os.PathLike[str], form: Format, report: KeyReport) -> dict[str, Tensor]:
    """Return a checkpoint's state dict; where the format has records beside it they are accounted for."""
    content = read_checkpoint(path)
    file = Path(path).name
    within = content.get(SAM2_STATE, content) if isinstance(content, dict) else None
    if is_state_dict(within) and family_of(within) == "hiera":
        if form is not FORMATS["sam"]:
            raise InputError(f"{file}: its image encoder is {family_name('hiera')}; import it as sam")
        if within is not content:
            report.ignored |= dict.fromkeys(set(content) - {SAM2_STATE}, "records of its training")
        return sam_names(within)
    if form.state is not None and isinstance(content, dict) and form.state in content:
        state = content.pop(form.state)
        unknown = sorted(map(str, set(content) - set(form.records)))
        if unknown:
            raise InputError(f"{file}: keys that have no place, {fold(unknown)}; is it of this format?")
        report.ignored |= dict.fromkeys(content, "records of its training")
        content = state
    if not is_state_dict(content):
        raise InputError(f"{file}: no state dict of tensors; is it of this format?")
    if content and all(key.startswith(_PARALLEL) for key in content):
        return {key.removeprefix(_PARALLEL): tensor for key, tensor in content.items()}
    return content


def _placed(
    state: Mapping[str, Tensor], names: Mapping[str, str], report: KeyReport, form: Format
) -> dict[str, Tensor]:
    """Return the part of a state dict that has a place in the network; the rest is reported, or refused."""
    placed = {}
    unknown = []
    for key, tensor in state.items():
        if key in names:
            placed[key] = tensor
            continue
        reason = form.ignore(key, tensor)
        if reason is None:
            unknown.append(key)
        else:
            report.ignored[key] = reason
    if unknown:
        raise InputError(f"keys that have no place, {fold(unknown)}; is it of this format?")
    return placed


def _told_as_base(key: str, tensor: Tensor, wanted: Tensor) -> str:
    """Return why a tensor that the network does not keep is not taken: it is the base's.

    Raises:
        InputError: it is not.
    """
    if tensor.shape != wanted.shape:
        return "of another size; the base's, resized, stands in its place"
    if not torch.allclose(tensor.float(), wanted, rtol=1e-3, atol=1e-4):  # stored in half precision by some
        raise InputError(f"{key} is not the base's: made on other base weights; give those with --base")
    return "the base's own" if tensor.any() else "zero, as the network has it"


def _why_absent(name: str, form: Format) -> str:
    for part, reason in form.absent.items():
        if part in name:
            return reason
    raise InputError(f"lacks {name.removeprefix('sam.')}; is it of this format, and whole?")
