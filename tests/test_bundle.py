"""A run is a MONAI bundle: whole, known to MONAI's own checks, and the same by MONAI's command line as by ours."""

import csv
import json
import os
import shutil

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import safetensors
import torch
from forked import run_python
from monai.bundle import ConfigParser, ConfigWorkflow
from small_study import QUICK, TRAINING, files_below

from ragsam.api.train import train_run
from ragsam.cli import main
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, load_datalist
from ragsam.errors import InputError
from ragsam.networks import Segmenter
from ragsam.networks.checkpoints import load_weights
from ragsam.networks.sam import build_sam
from ragsam.runs.run import run_config
from ragsam.runs.templates import find_bundle, fitting_image_size, make_run

CONFIGS = ("train", "inference", "evaluate")


def monai_run(config, *, cwd, **overrides):
    """Run a bundle's config as MONAI's user does, in another working folder."""
    bundle = config.parent.parent
    command = ["-m", "monai.bundle", "run", "--bundle_root", bundle, "--config_file", config]
    for name, value in overrides.items():
        command += [f"--{name}", value]
    done = run_python(command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def ragsam(*arguments, cwd):
    done = run_python(["-m", "ragsam.cli", *arguments], cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def weights_of(run):
    return load_weights(run / "models" / "model.safetensors")[0]


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_run_holds_every_part_of_a_bundle(run):
    assert set(files_below(run)) >= {
        *(f"configs/{name}.yaml" for name in CONFIGS),
        "configs/metadata.json",
        "configs/logging.conf",
        "configs/card.yaml",
        "LICENSE",
        "docs/README.md",
        "models/model.safetensors",
        "models/model.pt",
        "log.csv",
        "bank/manifest.json",
    }
    assert load_card(run / "configs" / "card.yaml") == load_card("hippocampus")
    assert (run / "LICENSE").read_bytes() == (find_bundle("sam_lora") / "LICENSE").read_bytes()


def test_metadata_name_the_card_labels_in_order_and_the_image_size(run):
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", "1": "anterior", "2": "posterior"}
    assert output["num_channels"] == 3
    assert output["spatial_shape"] == metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    assert "hippocampus" in metadata["data_source"].lower()
    for key in ("schema", "monai_version", "pytorch_version", "numpy_version", "name", "task", "description"):
        assert metadata[key]
    assert metadata["version"] in metadata["changelog"]
    assert metadata["authors"]
    assert metadata["copyright"]


def test_metadata_of_the_phantom_card_have_its_thirteen_organs(edited_study, tmp_path):
    run = make_run("sam_lora", edited_study(lambda content: content.update(card="phantom")), tmp_path / "run")
    output = json.loads((run / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    names = ["background", *load_card("phantom").labels]
    assert output["channel_def"] == {str(i): name for i, name in enumerate(names)}
    assert output["num_channels"] == 14


def test_both_weights_files_hold_the_same_tensors_and_what_they_were_made_for(run):
    ours, about = load_weights(run / "models" / "model.safetensors")
    assert_same_weights(ours, torch.load(run / "models" / "model.pt", weights_only=True))
    assert about["tuning"] == {"lora": {"rank": 4, "targets": ["q", "v"]}}
    assert about["base_sha256"] is None
    assert about["preparation"] == {
        "card": "hippocampus",
        "labels": ["anterior", "posterior"],
        "image_size": 32,
        "slice_axis": 2,
        "slice_layout": "ras",
        "context_slices": 1,
        "context_distance_mm": None,
        "spacing_mm": None,
        "window": None,
    }
    with safetensors.safe_open(run / "models" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(ours)


def test_weights_fit_the_network_that_the_inference_config_spells_out(run):
    parser = ConfigParser()
    parser.read_config(str(run / "configs" / "inference.yaml"))
    parser["bundle_root"] = str(run)
    network = parser.get_parsed_content("network_def")
    assert isinstance(network, Segmenter)
    keys = network.load_state_dict(weights_of(run), strict=False)
    assert keys.unexpected_keys == []
    assert keys.missing_keys == []


def test_log_has_a_row_a_validation(run):
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "10"), ("2", "20")]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert 0 < float(rows[0]["train_seconds"]) < float(rows[1]["train_seconds"])
    assert max(float(row["score"]) for row in rows) > 0.6  # it has learnt, so the tests on masks mean something


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_load_by_monai_with_the_knobs_set(run, study, name):
    parser = ConfigParser()
    parser.read_config(str(run / "configs" / f"{name}.yaml"))
    parser["bundle_root"] = str(run)
    assert parser["datalist"] == str(study)
    assert parser["image_size"] == 32
    assert parser.get_parsed_content("weights") == str(run / "models" / "model.safetensors")
    if name == "train":
        assert {option: parser[option] for option in QUICK} == QUICK
        assert len(parser.get_parsed_content("train#dataset").cases) == len(TRAINING)
    else:
        assert [case.case for case in parser.get_parsed_content("cases")] == [
            "case-te-ras",
            "case-te-flipped",
            "case-te-oblique",
        ]


def workflow(run, config, **overrides):
    made = ConfigWorkflow(
        config_file=str(run / "configs" / f"{config}.yaml"),
        meta_file=str(run / "configs" / "metadata.json"),
        logging_file=str(run / "configs" / "logging.conf"),
        workflow_type="train" if config == "train" else "inference",
        bundle_root=str(run),
        **overrides,
    )
    made.initialize()
    return made


@pytest.mark.parametrize("config", CONFIGS)
def test_monai_finds_every_property_it_asks_for(run, config):
    assert workflow(run, config).check_properties() == []


def test_monai_finds_optional_properties_of_training(run):
    made = workflow(run, "train")
    assert made.max_epochs == QUICK["epochs"]
    assert list(made.val_key_metric) == ["val_mean_dice"]
    for name in ("train_preprocessing", "val_preprocessing", "val_postprocessing", "val_inferer", "val_dataset"):
        assert getattr(made, name) is not None, name
    assert len(made.train_handlers) == 9
    assert len(made.val_handlers) == 4


def test_device_may_come_as_a_text_as_monai_label_gives_it(own_run, study, tmp_path):
    run_config(own_run, "inference", device="cpu", output_dir=str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3


def test_monai_and_our_command_line_give_the_same_bytes(own_run, study, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monai_run(own_run / "configs" / "evaluate.yaml", cwd=elsewhere)
    ragsam("segment", own_run, study, "--output", "ours", cwd=elsewhere)
    monkeypatch.chdir(elsewhere)
    evaluation = ["evaluate", "--reference", str(study), "--prediction", "ours", "--output", "measured"]
    assert main([*evaluation, "--bank", str(own_run / "bank")]) == 0
    ours = (elsewhere / "measured" / "metrics.json").read_bytes()
    assert (own_run / "evaluation" / "metrics.json").read_bytes() == ours
    assert len(json.loads(ours)["cases"]) == 3
    assert (own_run / "evaluation" / "metrics.csv").read_bytes() == (elsewhere / "measured/metrics.csv").read_bytes()
    assert files_below(own_run / "predictions") == files_below(elsewhere / "ours")
    for name in files_below(elsewhere / "ours"):
        theirs, mine = own_run / "predictions" / name, elsewhere / "ours" / name
        if name.endswith(".json"):
            assert theirs.read_bytes() == mine.read_bytes()
        else:
            assert np.array_equal(np.asarray(nib.load(theirs).dataobj), np.asarray(nib.load(mine).dataobj))
            assert nib.load(theirs).header.binaryblock == nib.load(mine).header.binaryblock
    assert (own_run / "evaluation" / "report.html").stat().st_size > 10_000
    assert set(os.listdir(elsewhere)) == {"ours", "measured"}  # nothing falls beside


def test_knobs_can_be_given_to_monai_too(own_run):
    config = str(own_run / "configs" / "inference.yaml")
    monai.bundle.run(bundle_root=str(own_run), config_file=config, section="validation", retrieval=False)
    written = files_below(own_run / "predictions-without-retrieval")
    assert written == ["case-va0.labels.json", "case-va0.nii.gz", "provenance.json"]


def test_training_by_monai_from_another_folder_gives_our_weights(run, study, tmp_path):
    other = make_run("sam_lora", study, tmp_path / "run", QUICK)
    monai_run(other / "configs" / "train.yaml", cwd=tmp_path)
    assert_same_weights(weights_of(run), weights_of(other))


def test_template_itself_trains_with_a_card_and_a_datalist(study, tmp_path):
    template = shutil.copytree(find_bundle("sam_lora"), tmp_path / "template")
    options = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2}
    run_config(template, "train", card="hippocampus", datalist=str(study), **options)
    assert all(tensor.isfinite().all() for tensor in weights_of(template).values())
    assert (template / "log.csv").read_text().count("\n") == 2


def test_run_can_be_the_template_of_another_run(run, study, tmp_path):
    second = make_run(run, study, tmp_path / "second", {"learning_rate": 1e-5})
    for name in CONFIGS:
        first, again = ((folder / "configs" / f"{name}.yaml").read_text() for folder in (run, second))
        assert again == first.replace("learning_rate: 0.001", "learning_rate: 1.0e-05")
    assert not (second / "models").exists()


def test_run_keeps_the_comments_and_the_order_of_its_template(run):
    lines, template = (
        (folder / "configs" / "train.yaml").read_text().splitlines() for folder in (run, find_bundle("sam_lora"))
    )
    changed = [(old, new) for old, new in zip(template, lines, strict=True) if old != new]
    assert {new.split(":")[0] for _, new in changed} == {"datalist", "image_size", *QUICK}
    assert "validate_every: 1  # epochs between validations; the last epoch is always validated" in lines


def test_output_that_holds_something_is_refused_and_untouched(run, study, tmp_path):
    before = {name: (run / name).stat().st_mtime_ns for name in files_below(run)}
    with pytest.raises(InputError, match="is a run already; choose another output"):
        make_run("sam_lora", study, run)
    assert {name: (run / name).stat().st_mtime_ns for name in files_below(run)} == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        make_run("sam_lora", study, tmp_path / "notes")
    assert files_below(tmp_path / "notes") == ["mine.txt"]


def test_image_size_is_the_smallest_multiple_of_16_that_holds_the_slices(study, tmp_path):
    cases = load_datalist(study).section("training")
    assert fitting_image_size(cases) == 32
    assert fitting_image_size(cases, (0.5, 0.5)) == 64  # 32 mm at 0.5 mm
    assert fitting_image_size(cases, (0.97, 1.0), step=32) == 64
    assert fitting_image_size(cases, (0.97, 1.0)) == 48  # 32.99 pixels do not fit into 32
    # Slices lie across z, whichever array axis runs along it: here the first, so a slice is 20 x 50.
    affine = np.array([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((600, 20, 50), np.uint8), affine), tmp_path / "x.nii")
    assert fitting_image_size([Case("x", "x", tmp_path / "x.nii")]) == 64
    nib.save(nib.Nifti1Image(np.zeros((600, 20, 2), np.uint8), np.eye(4)), tmp_path / "y.nii")
    assert fitting_image_size([Case("y", "y", tmp_path / "y.nii")]) == 512
    # The sform says 2 mm and rules; the voxel sizes of the header say 1: 40 pixels are 80 mm, 160 at 0.5 mm.
    image = nib.Nifti1Image(np.zeros((40, 40, 2), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.header["pixdim"][1:4] = 1
    nib.save(image, tmp_path / "z.nii")
    assert nib.load(tmp_path / "z.nii").header.get_zooms() == (1, 1, 1)
    assert fitting_image_size([Case("z", "z", tmp_path / "z.nii")], (0.5, 0.5)) == 160


def test_nothing_is_left_of_a_training_that_bad_input_stopped(edited_study, tmp_path):
    def no_validation(content):
        content["validation"] = []

    with pytest.raises(InputError, match="no cases under 'validation'"):
        train_run("sam_lora", edited_study(no_validation), tmp_path / "run", QUICK)
    assert not (tmp_path / "run").exists()


def test_weights_are_refused_on_another_base(own_run, study, tmp_path):
    base = tmp_path / "base.pth"
    torch.save(build_sam("vit_tiny", image_size=32, patch_size=8, num_masks=2).state_dict(), base)
    with pytest.raises(InputError, match="made on different base weights"):
        run_config(own_run, "inference", base=str(base), output_dir=str(tmp_path / "out"))
    assert files_below(tmp_path / "out") == []
