"""What label volumes were made with: `provenance.json` beside them, by hashes and versions, without path or patient."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ragsam.data.cards.load import Card
from ragsam.files import sha256_file, write_json_atomic
from ragsam.io.documents import check_schema, read_json
from ragsam.networks.checkpoints import load_metadata
from ragsam.networks.segmenter import Segmenter
from ragsam.outputs import Outputs
from ragsam.retrieval.bank_manifest import has_bank
from ragsam.runs.config_safety import sound_run

PROVENANCE_NAME = "provenance.json"
_VERSIONS = ("ragsam", "torch", "monai")
_TEXT = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_BANK = {
    "type": ["object", "null"],
    "required": ["slices", "patients", "sha256"],
    "properties": {"slices": _COUNT, "patients": _COUNT, "sha256": {"type": "string"}},
}
_PSEUDO = {
    "type": ["object", "null"],
    "required": ["volumes", "patients", "slices"],
    "properties": {"volumes": _COUNT, "patients": _COUNT, "slices": _COUNT},
}
_MEMBER = {
    "type": "object",
    "required": ["weights_sha256", "bank"],
    "properties": {"weights_sha256": _TEXT, "bank": _BANK, "pseudo_labels": _PSEUDO},
}
_NETWORK = {
    "type": "object",
    "properties": {
        "base_sha256": _TEXT,
        "full_tuning": {"type": "boolean"},
        "tuning": {"type": "object", "additionalProperties": {"type": "object"}},
    },
}
_SCHEMA = {
    "type": "object",
    "required": ["weights_sha256", "bank", "network", "versions"],
    "properties": {
        **_MEMBER["properties"],
        "network": _NETWORK,
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        "ensemble": {"type": "array", "items": _MEMBER},
        "date": _TEXT,
    },
}


class Provenance:
    """Writes `provenance.json` when an engine has started, of several processes in the first alone.

    Args:
        network: what segments.
        weights: the file that its weights are of; None if it has none.
        folder: of the label volumes.
        card: of the organs.
        bank: the bank that is searched; None if retrieval is off.
        ensemble: folders of the runs that are averaged with it.
    """

    def __init__(
        self,
        network: Segmenter,
        weights: str | os.PathLike[str] | None,
        folder: str | os.PathLike[str],
        *,
        card: Card,
        bank: str | os.PathLike[str] | None = None,
        ensemble: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self.network = network
        self.weights = weights
        self.folder = Path(folder)
        self.card = card
        self.bank = bank
        self.ensemble = [Path(run) for run in ensemble]

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator, after the handlers that load weights and banks: they tell what is wrong."""
        engine.add_event_handler(Events.STARTED, self.write)

    def write(self, engine: Engine) -> None:
        """Write the file."""
        if idist.get_rank() != 0:
            return
        content = {
            "card": self.card.name,
            **weights_and_bank(self.weights, self.bank),
            "network": self.network.about,
            "ensemble": [member(run, retrieval=self.bank is not None) for run in self.ensemble],
            "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
            "date": date.today().isoformat(),
        }
        with Outputs(self.folder, [PROVENANCE_NAME]):
            write_json_atomic(self.folder / PROVENANCE_NAME, content)


def weights_and_bank(weights: str | os.PathLike[str] | None, bank: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return the SHA-256 of a weights file and how many pseudo-labels it learnt from, and a bank's size and SHA-256.

    A bank's SHA-256 is that of its manifest, which has its files'.
    """
    found: dict[str, Any] = {"weights_sha256": None, "bank": None}
    if weights is not None:
        found["weights_sha256"] = sha256_file(weights)
        pseudo = load_metadata(weights).get("pseudo_labels")
        if pseudo is not None:
            found["pseudo_labels"] = pseudo
    if bank is not None and has_bank(bank):
        manifest = read_json(Path(bank) / "manifest.json")
        found["bank"] = {name: manifest[name] for name in ("slices", "patients", "sha256")}
    return found


def member(run: Path, *, retrieval: bool) -> dict[str, Any]:
    """Return the same of a run in an ensemble, as its own `inference.yaml` has them."""
    parser = sound_run(run).parser("inference", **({} if retrieval else {"retrieval": False}))
    weights = parser.get_parsed_content("weights")
    if not parser.get_parsed_content("retrieval") or not load_metadata(weights).get("fusion"):
        return weights_and_bank(weights, None)
    return weights_and_bank(weights, parser.get_parsed_content("bank"))


def provenance_rows(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return what the `provenance.json` of a folder says, as rows for people; none if there is no such file of ours.

    Raises:
        InputError: a file that is not JSON, or a field of it that is wrong.
    """
    path = Path(folder) / PROVENANCE_NAME
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, Mapping) or not content.keys() >= set(_SCHEMA["required"]):
        return {}
    check_schema(content, _SCHEMA, str(path))
    network = content["network"]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    slices = f"slices of {network.get('image_size')} pixels"
    rows = {
        "segmented": f"{content.get('date')}, {versions}",
        "weights": f"SHA-256 {content['weights_sha256']}",
        "network": f"{network.get('backbone')}, {slices}, {_tuned(network)}",
    }
    if content["weights_sha256"] is None:
        rows["weights"] = "none, without training"
        rows["network"] = f"the vote of the bank, {slices}"
    if network.get("base_sha256"):
        rows["base weights"] = f"SHA-256 {network['base_sha256']}"
    pseudo = content.get("pseudo_labels")
    if pseudo is not None:
        rows["pseudo-labels"] = f"{pseudo['slices']} slices of {pseudo['volumes']} volumes were learnt from too"
    rows["bank"] = _bank(content["bank"])
    for number, other in enumerate(content.get("ensemble", []), start=2):
        weights = f"weights: SHA-256 {other['weights_sha256']}"
        rows[f"averaged with (run {number})"] = f"{weights}; bank: {_bank(other['bank'])}"
    return rows


def _tuned(network: Mapping[str, Any]) -> str:
    """Return in words how a network was tuned."""
    ways = []
    for name, options in network.get("tuning", {}).items():
        words = []
        for option, value in options.items():
            if isinstance(value, list):
                value = "+".join(map(str, value))
            words.append(f"{option} {value}")
        ways.append(f"{name} ({', '.join(words)})")
    how = "trained whole, without base weights, with"
    if network.get("base_sha256"):
        how = "tuned by"
        if network.get("full_tuning"):
            ways.append("all of the base weights")
    added = ", ".join(ways) or "nothing added"
    return f"{how} {added}"


def _bank(bank: Mapping[str, Any] | None) -> str:
    if bank is None:
        return "none, retrieval was off"
    return f"{bank['slices']} slices of {bank['patients']} patients, SHA-256 {bank['sha256']}"
