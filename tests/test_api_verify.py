"""`ragsam verify`: a sound run passes every check of MONAI's; each fault is a line; what is not sound is never run."""

import json
import os
import pickle
import tempfile

import pytest
import torch
import yaml
from small_study import files_below

from ragsam.api.verify import verify_bundle
from ragsam.api.verify_with_monai import CHECKS
from ragsam.cli import main
from ragsam.networks.checkpoints import load_weights, save_weights

MARK = "/tmp/ragsam-verified-bundle-has-run"


def edit(path, change):
    """Change a YAML or JSON file's content, in a new file: the run's are hard links."""
    content = yaml.safe_load(path.read_text())
    change(content)
    path.unlink()
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content, sort_keys=False))


def replace_weights(run, change, name="model.safetensors"):
    path = run / "models" / name
    state, about = load_weights(run / "models" / "model.safetensors")
    change(state, about)
    path.unlink()
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        save_weights(path, state, about)


def faults_of(run):
    """Return what is found before anything is run."""
    found = verify_bundle(run)
    assert "everything that runs it" in found.left_out[0]
    assert not set(CHECKS) & set(found.passed)
    return found.faults


def test_a_run_passes_every_check_and_nothing_is_written_into_it(own_run, capsys, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.chdir(tmp_path)
    before = {name: (own_run / name).stat().st_mtime_ns for name in files_below(own_run)}
    assert main(["verify", str(own_run)]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-len(CHECKS) :] == [f"passed: {name}" for name in CHECKS]
    assert "left out" not in told.out
    assert {name: (own_run / name).stat().st_mtime_ns for name in files_below(own_run)} == before
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("bundle", ["sam_lora", "sam_adapter", "sam_frequency"])
def test_a_packaged_bundle_is_checked_as_data(bundle, capsys):
    assert main(["verify", bundle]) == 0
    assert "left out: labels, weights and everything that runs it: a template has no card" in capsys.readouterr().out


def test_a_malicious_config_never_runs(own_run, capsys):
    evil = f"$__import__('os').system('touch {MARK}')"
    edit(own_run / "configs" / "inference.yaml", lambda content: content.update(device=evil))
    assert main(["verify", str(own_run)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("ragsam: configs/inference.yaml: device: $__import__('os')")
    assert "left out: everything that runs it" in told.out
    assert not os.path.exists(MARK)


def test_a_malicious_pickle_never_runs(own_run):
    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {MARK}",)

    path = own_run / "models" / "model.pt"
    path.unlink()
    path.write_bytes(pickle.dumps(Payload()))
    (fault,) = faults_of(own_run)
    assert fault.startswith("model.pt: not a readable weights file")
    assert not os.path.exists(MARK)


@pytest.mark.parametrize("name", ["LICENSE", "docs/README.md", "configs/metadata.json", "configs/evaluate.yaml"])
def test_a_missing_file_is_told(own_run, name):
    (own_run / name).unlink()
    assert faults_of(own_run) == [f"{name}: missing; a bundle has one"]


def test_missing_weights_are_told(own_run):
    (own_run / "models" / "model.pt").unlink()
    assert faults_of(own_run)[0].startswith("models/model.pt: missing")


def test_weights_are_compared_key_by_key(own_run):
    def change(state, about):
        state["sam.strange"] = torch.zeros(1)
        del state["fusion.gate" if "fusion.gate" in state else sorted(state)[0]]

    replace_weights(own_run, change)
    faults = faults_of(own_run)
    assert any("1 tensors missing" in fault for fault in faults)
    assert any("1 tensors that the network lacks (sam.strange)" in fault for fault in faults)


def test_weights_of_another_shape_with_nan_or_of_another_training_are_told(own_run):
    key = "sam.mask_decoder.mask_tokens.weight"

    def reshape(state, about):
        state[key] = state[key][:1]

    def spoil(state, about):
        state[key] = torch.full_like(state[key], float("nan"))

    def move(state, about):
        state[key] = state[key] + 1

    kinds = ((reshape, "1 tensors of another shape"), (spoil, "1 tensors hold NaN"), (move, "other values"))
    for change, told in kinds:
        replace_weights(own_run, change, "model.pt")
        (fault,) = faults_of(own_run)
        assert fault.startswith("models/model.pt: ")
        assert told in fault


def test_weights_made_for_something_else_are_told(own_run):
    def other(state, about):
        about["preparation"]["labels"].reverse()
        about["normalisation"] = "sam"

    replace_weights(own_run, other)
    assert faults_of(own_run) == [
        "models/model.safetensors: made for normalisation sam, the run has unit",
        "models/model.safetensors: made for labels posterior, anterior, the run has anterior, posterior",
    ]


def test_labels_in_another_order_and_another_size_are_told(own_run):
    def change(content):
        output = content["network_data_format"]["outputs"]["pred"]
        output["channel_def"] = {"0": "background", "1": "posterior", "2": "anterior"}
        content["network_data_format"]["inputs"]["image"]["spatial_shape"] = [64, 64]

    edit(own_run / "configs" / "metadata.json", change)
    wrong, right = ("0 background, 1 posterior, 2 anterior", "0 background, 1 anterior, 2 posterior")
    assert faults_of(own_run) == [
        f"configs/metadata.json: pred.channel_def is {wrong}, the card and the config have {right}",
        "configs/metadata.json: image.spatial_shape is [64, 64], the card and the config have [32, 32]",
    ]


def test_metadata_that_break_the_schema_are_told_each_with_its_place(own_run):
    def change(content):
        del content["intended_use"]
        content["version"] = "0.2.0"
        content["network_data_format"]["outputs"]["pred"]["num_channels"] = "3"

    edit(own_run / "configs" / "metadata.json", change)
    assert faults_of(own_run) == [
        "configs/metadata.json: top: 'intended_use' is a required property",
        "configs/metadata.json: network_data_format.outputs.pred.num_channels: '3' is not of type 'integer'",
    ]
    edit(own_run / "configs" / "metadata.json", lambda content: content.update(intended_use="research"))
    edit(
        own_run / "configs" / "metadata.json",
        lambda content: content["network_data_format"]["outputs"]["pred"].update(num_channels=3),
    )
    assert faults_of(own_run) == ["configs/metadata.json: version 0.2.0 is not in the changelog; add it"]


def test_configs_of_two_networks_are_told(own_run):
    edit(own_run / "configs" / "evaluate.yaml", lambda content: content["untrained"].update(detail=False))
    (fault,) = faults_of(own_run)
    assert fault == "configs/evaluate.yaml: network_def has detail False, train.yaml True; make them one"


def test_a_property_that_lacks_and_a_bank_for_another_descriptor_are_found_by_running(own_run, monkeypatch):
    for name in ("ckpt_export --use_trace", "onnx_export", "verify_net_in_out"):
        monkeypatch.delitem(CHECKS, name)  # seconds each; the first test has them
    edit(own_run / "configs" / "inference.yaml", lambda content: content.update(descriptor="embedding"))
    edit(own_run / "configs" / "train.yaml", lambda content: content.pop("dataset_dir") or content.update(datalist="x"))
    found = verify_bundle(own_run)
    assert found.passed[-1] == "verify_metadata"
    properties, inference = found.faults
    assert properties.startswith("check_properties: ")
    assert "dataset_dir" in properties
    assert inference.startswith("inference: ")
    assert "bank" in inference
