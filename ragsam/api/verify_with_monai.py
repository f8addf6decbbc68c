"""MONAI's own checks of a run, on volumes made for the purpose: nothing is written into the run."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ragsam.data.cards.load import Card
from ragsam.data.datalist import Case, write_datalist
from ragsam.errors import InputError
from ragsam.runs.metadata_schema import SCHEMA
from ragsam.runs.run import RunFolder, root_cause, run_config

_SHAPE = (24, 20, 4)
#: Configs laid over each other, and what MONAI takes them for.
_WORKFLOWS = ((("inference",), "inference"), (("train",), "train"), (("train", "evaluate"), "train"))


def _metadata(root: Path, card: Card) -> list[str]:
    import monai.bundle

    with _quiet("verify_metadata"):
        monai.bundle.verify_metadata(meta_file=_files(root)["meta_file"], filepath=str(SCHEMA))
    return []


def _properties(root: Path, card: Card) -> list[str]:
    from monai.bundle import ConfigWorkflow

    faults = []
    for configs, kind in _WORKFLOWS:
        with _quiet("check_properties"), _overrides(root, card) as overrides:
            workflow = ConfigWorkflow(
                config_file=[str(root / "configs" / f"{name}.yaml") for name in configs],
                meta_file=_files(root)["meta_file"],
                workflow_type=kind,
                logging_file=False,
                bundle_root=str(root),
                **{key: value for key, value in overrides.items() if kind == "train" or key not in _OF_TRAINING},
            )
            workflow.initialize()
            if missing := workflow.check_properties():
                faults.append(f"check_properties: {'+'.join(configs)} as {kind}: no {', '.join(missing)}")
    return faults


def _network(root: Path, card: Card) -> list[str]:
    import monai.bundle

    with _quiet("verify_net_in_out"):
        monai.bundle.verify_net_in_out(net_id="network_def", device="cpu", **_files(root))
    return []


def _traced(root: Path, card: Card) -> list[str]:
    import monai.bundle

    with _quiet("ckpt_export"), tempfile.TemporaryDirectory() as folder:
        monai.bundle.ckpt_export(**_export(root, Path(folder) / "model.ts"), use_trace=True)
    return []


def _onnx(root: Path, card: Card) -> list[str]:
    import monai.bundle

    with _quiet("onnx_export"), _temporary_files_gone() as folder:
        monai.bundle.onnx_export(**_export(root, Path(folder) / "model.onnx"))
    return []


def _segments(root: Path, card: Card) -> list[str]:
    """Run inference as `monai.bundle run` does, with the run's bank where it has one."""
    with _quiet("inference"), _overrides(root, card) as overrides:
        own = {key: value for key, value in overrides.items() if key not in _OF_TRAINING}
        retrieval = {} if (root / "bank").is_dir() else {"retrieval": False}
        run_config(root, "inference", **own, **retrieval)
        written = list(Path(overrides["output_dir"]).glob("*.nii.gz"))
        shapes = [nib.load(path).shape for path in written]
    return [] if shapes == [_SHAPE] else [f"inference: wrote {len(shapes)} label volumes of {shapes}, for one {_SHAPE}"]


def left_out(name: str) -> str | None:
    """Return why a check cannot be made here, or None."""
    if name == "onnx_export" and any(find_spec(package) is None for package in ("onnx", "onnxscript")):
        return f"{name}: ONNX is not installed; pip install 'ragsam[onnx]'"
    return None


#: Name and check of a run's folder and card, in the order in which they are made.
CHECKS: dict[str, Callable[[Path, Card], list[str]]] = {
    "verify_metadata": _metadata,
    "check_properties for inference, train, train+evaluate": _properties,
    "verify_net_in_out": _network,
    "inference on a made volume": _segments,
    "ckpt_export --use_trace": _traced,
    "onnx_export": _onnx,
}
_OF_TRAINING = ("log", "checkpoints", "workers")


def _files(root: Path) -> dict[str, str]:
    names = {"meta_file": "metadata.json", "config_file": "inference.yaml"}
    return {**{key: str(root / "configs" / name) for key, name in names.items()}, "bundle_root": str(root)}


def _export(root: Path, filepath: Path) -> dict[str, str]:
    weights = str(root / "models" / "model.pt")
    return {"net_id": "network_def", "filepath": str(filepath), "ckpt_file": weights, **_files(root)}


@contextlib.contextmanager
def _temporary_files_gone() -> Iterator[str]:
    """Yield a folder for temporary files, which goes: MONAI leaves the weights of the ONNX file it makes there."""
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield folder
        finally:
            tempfile.tempdir = usual


@contextlib.contextmanager
def _overrides(root: Path, card: Card) -> Iterator[dict[str, Any]]:
    """Yield what a config needs beside the run itself: a datalist of made volumes, and places to write to."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        yield {
            "datalist": str(_made_study(place / "study", card, RunFolder(root).card_path)),
            "output_dir": str(place / "out"),
            "device": "cpu",
            "log": str(place / "log.csv"),
            "checkpoints": str(place / "checkpoints"),
            "workers": 0,
        }


def _made_study(folder: Path, card: Card, card_path: Path) -> Path:
    """Write three volumes of noise whose labels are all of the card's, each for a section of a datalist."""
    folder.mkdir()
    sections = {}
    for seed, section in enumerate(("training", "validation", "test")):
        low, high = card.window or (0, 1000)
        image = np.random.default_rng(seed).uniform(low, high, _SHAPE).astype(np.int16)
        label = (np.arange(image.size).reshape(_SHAPE) % (card.num_classes + 1)).astype(np.uint8)
        paths = [folder / f"{section}-{part}.nii.gz" for part in ("image", "label")]
        for path, array in zip(paths, (image, label), strict=True):
            nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        sections[section] = [Case(section, section, *paths)]
    write_datalist(folder / "datalist.json", os.fspath(card_path.absolute()), sections)
    return folder / "datalist.json"


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence MONAI's messages, and turn whatever goes wrong into a line of bad input."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # of MONAI, of torch, of the network: whatever it is, the bundle does not pass
        cause = root_cause(error)
        reason = str(cause) if isinstance(cause, InputError) else f"{type(cause).__name__}: {cause}"
        raise InputError(f"{name}: {' '.join(reason.split())[:300]}") from error
    finally:
        logging.disable(disabled)
