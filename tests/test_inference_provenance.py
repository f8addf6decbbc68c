"""What label volumes were made with: written beside them, told on the report's page, without path or patient."""

import hashlib
import json
from datetime import date
from importlib.metadata import version

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine
from small_study import HEADER_NAME

from ragsam.api.segment import segment_with_run
from ragsam.cli import main
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import load_datalist
from ragsam.inference.provenance import Provenance, provenance_rows
from ragsam.io.documents import read_json
from ragsam.networks.checkpoints import save_weights

LORA = {"lora": {"rank": 4, "targets": ["q", "v"]}}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bank_of(run):
    return {name: read_json(run / "bank" / "manifest.json")[name] for name in ("slices", "patients", "sha256")}


def test_weights_bank_and_versions_are_named_without_path_or_patient(run, study, segmented, tmp_path):
    text = (segmented / "provenance.json").read_text()
    found = json.loads(text)
    assert found["card"] == "hippocampus"
    assert found["weights_sha256"] == sha256(run / "models" / "model.safetensors")
    assert found["bank"] == bank_of(run)
    assert found["network"]["tuning"] == LORA
    assert found["network"]["base_sha256"] is None
    assert found["versions"]["torch"] == version("torch")
    assert found["date"] <= date.today().isoformat()
    people = [word for case in load_datalist(study).section("test") for word in (case.case, case.patient)]
    for secret in (*people, HEADER_NAME, "/", "\\"):
        assert secret not in text


def test_the_page_tells_them_and_that_retrieval_was_off(run, study, segmented, tmp_path):
    segment_with_run(run, [study], tmp_path / "off", retrieval=False)
    for name, folder in (("with", segmented), ("without", tmp_path / "off")):
        evaluate = ["evaluate", "--reference", study, "--prediction", folder, "--output", tmp_path / name]
        assert main([*map(str, evaluate)]) == 0
    pages = {name: (tmp_path / name / "report.html").read_text() for name in ("with", "without")}
    for page in pages.values():
        assert f"<dt>weights</dt><dd>SHA-256 {sha256(run / 'models' / 'model.safetensors')}</dd>" in page
        assert "slices of 32 pixels, trained whole, without base weights, with lora (rank 4, targets q+v)" in page
        assert f"torch {version('torch')}" in page
        assert page.count("<dt>bank</dt>") == 1
    assert f"SHA-256 {bank_of(run)['sha256']}" in pages["with"]
    assert "<dt>bank</dt><dd>none, retrieval was off</dd>" in pages["without"]


def test_runs_that_are_averaged_are_named_too(run, own_run, study, tmp_path):
    segment_with_run(run, [study], tmp_path / "out", ensemble=[own_run])
    weights = sha256(run / "models" / "model.safetensors")
    assert read_json(tmp_path / "out" / "provenance.json")["ensemble"] == [
        {"weights_sha256": weights, "bank": bank_of(run)}
    ]
    rows = provenance_rows(tmp_path / "out")
    assert rows["averaged with (run 2)"].startswith(f"weights: SHA-256 {weights}; bank: 30 slices of 4 patients")


def test_base_weights_are_told_and_files_of_others_are_not(tmp_path):
    """A folder of another system may hold a file of that name."""
    assert provenance_rows(tmp_path) == {}
    for other in ("[]", '{"bank": "of England"}'):
        (tmp_path / "provenance.json").write_text(other)
        assert provenance_rows(tmp_path) == {}
    network = {"backbone": "vit_b", "image_size": 512, "base_sha256": "abc", "tuning": LORA, "full_tuning": True}
    content = {"weights_sha256": "def", "bank": None, "network": network, "versions": {"torch": "2.10"}, "date": "x"}
    (tmp_path / "provenance.json").write_text(json.dumps(content))
    rows = provenance_rows(tmp_path)
    assert rows["base weights"] == "SHA-256 abc"
    assert rows["network"].endswith("tuned by lora (rank 4, targets q+v), all of the base weights")


class Network:
    """The least that provenance needs of a network."""

    def __init__(self):
        self.about = {"rank": idist.get_rank()}


def on_a_rank(rank, folder):
    engine = Engine(lambda engine, batch: None)
    Provenance(Network(), folder / "weights.safetensors", folder / "out", card=load_card("hippocampus")).attach(engine)
    engine.run([0])
    idist.barrier()


@pytest.mark.parametrize("processes", [1, 2])
def test_of_several_processes_the_first_writes(tmp_path, processes):
    save_weights(tmp_path / "weights.safetensors", {"weight": torch.zeros(1)}, {"rank": 0})
    if processes == 1:
        on_a_rank(0, tmp_path)
    else:
        idist.spawn("gloo", on_a_rank, args=(tmp_path,), nproc_per_node=processes, start_method="forkserver")
    assert read_json(tmp_path / "out" / "provenance.json")["network"] == {"rank": 0}
