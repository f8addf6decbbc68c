"""MONAI's own verifications and exports pass on a run of each bundle; overlays and other working folders work."""

import csv
import json
import os
import shutil
import tempfile

import monai.bundle
import numpy as np
import onnxruntime
import pytest
import torch
from forked import run_python
from monai.bundle import ConfigParser, ConfigWorkflow
from small_study import QUICK, files_below

from ragsam.networks.checkpoints import load_weights, save_weights
from ragsam.networks.tuning import USUAL
from ragsam.runs.metadata_schema import SCHEMA
from ragsam.runs.templates import find_bundle, make_run

BUNDLES = ("sam_lora", "sam_adapter", "sam_frequency")


def network_of(run):
    parser = ConfigParser()
    parser.read_config(str(run / "configs" / "inference.yaml"))
    parser["bundle_root"] = str(run)
    return parser.get_parsed_content("network_def")


@pytest.fixture(scope="module", params=BUNDLES)
def made(request, study, tmp_path_factory):
    """A run of each bundle with weights that were never trained: what MONAI checks does not depend on it."""
    run = make_run(request.param, study, tmp_path_factory.mktemp(request.param) / "run", QUICK)
    torch.manual_seed(0)
    network = network_of(run)
    state = network.trainable_state()
    save_weights(run / "models" / "model.safetensors", state, {**network.about, "preparation": {}})
    torch.save(state, run / "models" / "model.pt")
    return run


def arguments(run, config="inference"):
    return {
        "meta_file": str(run / "configs" / "metadata.json"),
        "config_file": str(run / "configs" / f"{config}.yaml"),
        "bundle_root": str(run),
    }


def exported(run, filepath):
    weights = str(run / "models" / "model.pt")
    return {"net_id": "network_def", "filepath": str(filepath), "ckpt_file": weights, **arguments(run)}


def slices_and_logits(run):
    network = network_of(run).eval()
    network.load_state_dict(torch.load(run / "models" / "model.pt", weights_only=True))
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return image, network(image)


def test_metadata_keep_the_schema(made):
    monai.bundle.verify_metadata(meta_file=str(made / "configs" / "metadata.json"), filepath=str(SCHEMA))


def test_metadata_of_a_template_keep_the_schema_and_the_schema_refuses(tmp_path):
    for name in BUNDLES:
        path = find_bundle(name) / "configs" / "metadata.json"
        monai.bundle.verify_metadata(meta_file=str(path), filepath=str(SCHEMA))
    content = json.loads(path.read_text())
    for key in ("intended_use", "changelog", "network_data_format", "numpy_version"):
        (tmp_path / "metadata.json").write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        with pytest.raises(ValueError, match=f"'{key}' is a required property"):
            monai.bundle.verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(SCHEMA))


def test_templates_metadata_differ_in_what_tunes_alone():
    contents = [json.loads((find_bundle(name) / "configs" / "metadata.json").read_text()) for name in BUNDLES]
    own = ("name", "description", "references")
    for content in contents[1:]:
        assert list(content) == list(contents[0])
        assert {k: v for k, v in content.items() if k not in own} == {
            k: v for k, v in contents[0].items() if k not in own
        }
    assert len({content["name"] for content in contents}) == len(BUNDLES)


def test_network_takes_and_gives_what_the_metadata_say(made):
    monai.bundle.verify_net_in_out(net_id="network_def", device="cpu", **arguments(made))


@pytest.mark.parametrize(
    ("kind", "configs"),
    [
        ("inference", ["inference"]),
        ("inference", ["evaluate"]),
        ("train", ["train"]),
        ("train", ["train", "evaluate"]),
        ("inference", ["train", "evaluate"]),
    ],
)
def test_monai_finds_every_property_in_overlays_too(made, kind, configs):
    workflow = ConfigWorkflow(
        config_file=[str(made / "configs" / f"{name}.yaml") for name in configs],
        meta_file=str(made / "configs" / "metadata.json"),
        logging_file=str(made / "configs" / "logging.conf"),
        workflow_type=kind,
        bundle_root=str(made),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_traced_network_gives_the_same_logits(made, tmp_path):
    monai.bundle.ckpt_export(**exported(made, tmp_path / "model.ts"), use_trace=True)
    image, logits = slices_and_logits(made)
    network = torch.jit.load(tmp_path / "model.ts")
    with torch.no_grad():
        assert torch.allclose(network(image[:1]), logits[:1], atol=1e-4)


def test_onnx_network_gives_the_same_logits(made, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where MONAI leaves a file of the weights
    monai.bundle.onnx_export(**exported(made, tmp_path / "model.onnx"))
    image, logits = slices_and_logits(made)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: image[:1].numpy()})
    assert np.allclose(found, logits[:1].numpy(), atol=1e-3)


def test_evaluation_laid_over_training_runs_from_another_folder(own_run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    configs = [str(own_run / "configs" / f"{name}.yaml") for name in ("train", "evaluate")]
    command = ["-m", "monai.bundle", "run", "--bundle_root", own_run, "--config_file", str(configs)]
    done = run_python(command, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    metrics = (own_run / "evaluation" / "metrics.json").read_bytes()
    dice = json.loads(metrics)["summary"]["mean"]["dice"]["mean"]
    assert f"evaluate: mean Dice {dice:.4f} (n = 3 patients; " in done.stderr
    assert f"evaluate: report: {own_run / 'evaluation' / 'report.html'}\n" in done.stderr
    assert os.listdir(elsewhere) == []

    # Without retrieval: label volumes and report in folders of their own
    labels = {path.name: path.read_bytes() for path in (own_run / "predictions").glob("*.nii.gz")}
    done = run_python([*command, "--retrieval", "False"], cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert (own_run / "evaluation-without-retrieval" / "metrics.json").is_file()
    assert len(list((own_run / "predictions-without-retrieval").glob("*.nii.gz"))) == 3
    assert (own_run / "evaluation" / "metrics.json").read_bytes() == metrics
    assert {path.name: path.read_bytes() for path in (own_run / "predictions").glob("*.nii.gz")} == labels


def test_inference_by_monai_from_another_folder_gives_our_masks(own_run, segmented, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monai.bundle.run(bundle_root=str(own_run), config_file=str(own_run / "configs" / "inference.yaml"), device="cpu")
    masks = [name for name in files_below(segmented) if name.endswith(".nii.gz")]
    assert len(masks) == 3
    for name in masks:
        assert (own_run / "predictions" / name).read_bytes() == (segmented / name).read_bytes()
    assert os.listdir(elsewhere) == []


def test_a_way_to_tune_can_be_added_for_monai_too(study, tmp_path):
    """`--network_def::...` is to MONAI what `--set network_def....` is to `ragsam train`."""
    run = make_run("sam_lora", study, tmp_path / "run", {**QUICK, "epochs": 1, "steps_per_epoch": 1})
    way = {"network_def::adapter": {"space": True, "mlp": True}}
    monai.bundle.run(bundle_root=str(run), config_file=str(run / "configs" / "train.yaml"), **way)
    state = torch.load(run / "models" / "model.pt", weights_only=True)
    assert all(any(part in key for key in state) for part in ("_adapter.", ".updates."))


def test_a_template_takes_the_data_set_what_tunes_and_the_knobs_from_monai(study, tmp_path):
    template = shutil.copytree(find_bundle("sam_lora"), tmp_path / "bundle")
    given = {"dataset": "hippocampus", "datalist": str(study), "peft": ("adapter", "frequency"), "image_size": 32}
    given |= {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2}  # as `--dataset hippocampus --peft adapter,frequency`
    monai.bundle.run(bundle_root=str(template), config_file=str(template / "configs" / "train.yaml"), **given)
    state, about = load_weights(template / "models" / "model.safetensors")
    assert about["tuning"] == {name: USUAL[name] for name in ("adapter", "frequency")}
    assert not any(".updates." in key for key in state)
    assert about["preparation"]["card"] == "hippocampus"
    assert about["image_size"] == 32
    with (template / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"]
