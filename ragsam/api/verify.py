"""What a bundle must be like to be given away: read as data first, and only a sound one is run, as MONAI's zoo does."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ragsam.api.verify_with_monai import CHECKS, left_out
from ragsam.data.cards.load import Card
from ragsam.errors import InputError
from ragsam.io.documents import read_json
from ragsam.networks.checkpoints import load_weights, read_state_dict
from ragsam.networks.segmenter import Segmenter
from ragsam.runs.config_safety import code_faults
from ragsam.runs.metadata_schema import label_faults, schema_faults
from ragsam.runs.network_config import build_empty, network_options
from ragsam.runs.run import RunFolder
from ragsam.runs.templates import CONFIGS, find_bundle
from ragsam.runs.weights import differences, said_by_run

_FILES = ("LICENSE", "docs/README.md", "configs/metadata.json", "configs/logging.conf")
_FILES += tuple(f"configs/{name}.yaml" for name in (*CONFIGS, "multi_gpu_train", "multi_gpu_evaluate"))
_WEIGHTS = ("models/model.safetensors", "models/model.pt")


@dataclass
class Verification:
    """What was found.

    Attributes:
        passed: names of the checks that passed.
        faults: a line each.
        left_out: what was not checked, and why.
    """

    passed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, name: str, check: Callable[[], list[str]]) -> None:
        """Run a check; no line is a pass, and bad input it meets is a fault."""
        try:
            faults = check()
        except InputError as error:
            faults = [str(error)]
        self.faults += faults
        if not faults:
            self.passed.append(name)


def verify_bundle(bundle: str | os.PathLike[str]) -> Verification:
    """Check a bundle or a run, writing nothing into it.

    First as data: its files, what its configs would run, its metadata, labels and weights. Where all that is right
    MONAI's own verifications and exports are run on it, with volumes made for the purpose. A template, which has
    neither card nor weights, is checked as data alone.

    Args:
        bundle: a folder, or the name of a packaged bundle.

    Raises:
        InputError: no bundle.
    """
    run, found = RunFolder(find_bundle(bundle), "train"), Verification()
    root = run.path
    found.add("files", lambda: [f"{name}: missing; a bundle has one" for name in _FILES if not (root / name).is_file()])
    found.add("configs, read as data", lambda: code_faults(root))
    if found.faults:
        found.left_out.append("everything that runs it: what was found has to be mended first")
        return found
    metadata = read_json(run.metadata_path)
    found.add("metadata", lambda: schema_faults(metadata))
    if not run.card_path.is_file():
        found.left_out.append("labels, weights and everything that runs it: a template has no card (configs/card.yaml)")
        return found
    card = run.card
    if not found.faults:
        found.add("labels", lambda: label_faults(metadata, card, run.content("inference")))
    found.add("one network in all configs", lambda: _network_faults(run))
    found.add("weights, key by key", lambda: _weights_faults(run, card))
    if found.faults:
        found.left_out.append("everything that runs it: what was found has to be mended first")
        return found
    for name, check in CHECKS.items():
        if reason := left_out(name):
            found.left_out.append(reason)
        else:
            found.add(name, lambda check=check: check(root, card))
    return found


def _network_faults(run: RunFolder) -> list[str]:
    """Compare the networks of the configs, options filled in."""
    texts = {name: run.text(name) for name in CONFIGS}
    options = {name: network_options(text, 1) for name, text in texts.items()}
    faults = []
    for name in CONFIGS[1:]:
        for key in sorted({*options[name], *options["train"]}):
            ours, trained = options[name].get(key), options["train"].get(key)
            if ours != trained:
                faults.append(f"configs/{name}.yaml: network_def has {key} {ours}, train.yaml {trained}; make them one")
    return faults


def _weights_faults(run: RunFolder, card: Card) -> list[str]:
    """Compare both files of weights with the network that the config describes, and with each other."""
    root = run.path
    if missing := [name for name in _WEIGHTS if not (root / name).is_file()]:
        return [f"{missing[0]}: missing; train the bundle, or make a run of weights (`ragsam import --run`)"]
    network = build_empty(network_options(run.text("inference"), card.num_classes))
    state, about = load_weights(root / _WEIGHTS[0])
    found = differences(about, {**said_by_run(run), **network.about})
    faults = [f"{_WEIGHTS[0]}: made for {name} {made}, the run has {have}" for name, made, have in found]
    for name, tensors in ((_WEIGHTS[0], state), (_WEIGHTS[1], read_state_dict(root / _WEIGHTS[1]))):
        faults += _key_faults(name, tensors, network)
        if broken := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
            faults.append(f"{name}: {len(broken)} tensors hold NaN or infinity ({broken[0]}); train it again")
        elif not faults and any(not torch.equal(tensors[key], state[key]) for key in state):
            faults.append(f"{name}: other values than {_WEIGHTS[0]}; MONAI's tools would run another network")
    return faults


def _key_faults(name: str, tensors: dict[str, torch.Tensor], network: Segmenter) -> list[str]:
    own = network.trainable_state()
    lost, strange = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [key for key in own if key in tensors and own[key].shape != tensors[key].shape]
    kinds = (("missing", lost), ("that the network lacks", strange), ("of another shape", shapes))
    return [f"{name}: {len(keys)} tensors {kind} ({keys[0]}); use the run's own" for kind, keys in kinds if keys]
