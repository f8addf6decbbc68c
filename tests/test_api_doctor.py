"""What works here: found as it is, and as it would be on machines that lack something."""

import importlib
import os
import shutil
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from ragsam.api import doctor
from ragsam.api.doctor import Finding, examine, finding_lines, package_fault
from ragsam.cli import main


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Return a function that examines an empty folder, and gives the findings of one name."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(doctor, "package_fault", lambda requirement: None)
    (tmp_path / "here").mkdir()

    def find(name):
        return [(one.state, one.text) for one in examine(tmp_path / "here") if one.name == name]

    return find


def test_this_installation_is_sound_and_told_in_aligned_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line[9:].split("  ")[0].strip() for line in lines]
    assert names[:2] == ["python", "packages"]
    assert {"cuda", "weights", "monailabel", "disk", "extra dicom"} <= set(names)
    assert lines[1].startswith("ok       packages")
    assert "monai 1." in lines[1]
    assert not list(tmp_path.iterdir())


def test_lines_by_hand():
    findings = [Finding("a", "ok", "works"), Finding("longer", "missing", "do this")]
    assert finding_lines(findings) == ["ok       a       works", "missing  longer  do this"]


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("numpy", None),
        ("segment-anything>=1.0", None),
        ("no-such-package", "not installed"),
        ("numpy>=999", "is installed, >=999 is needed"),
    ],
)
def test_a_package_is_looked_up_and_imported(requirement, expected):
    fault = package_fault(Requirement(requirement))
    assert fault is None if expected is None else expected in fault


def test_a_package_that_does_not_load_is_a_fault(monkeypatch, capsys):
    plain = importlib.import_module

    def broken(name, *rest):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nat line 1")
        return plain(name, *rest)

    monkeypatch.setattr(importlib, "import_module", broken)
    assert main(["doctor"]) == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fault")]
    assert "does not load (operator torchvision::nms does not exist); pip install --upgrade ragsam" in line


def test_an_extra_that_is_not_there_is_named_with_its_installation(found, monkeypatch):
    assert found("extra dicom") == [("ok", "highdicom")]
    monkeypatch.setattr(doctor, "package_fault", lambda one: "not installed" if one.name == "highdicom" else None)
    assert found("extra dicom") == [("missing", "highdicom not installed; pip install 'ragsam[dicom]'")]
    assert not found("extra test")


def test_cards_are_named_with_their_memory(found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found("cuda")[0][0] == "missing"
    card = SimpleNamespace(name="Some Card", total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert found("cuda") == [("ok", "Some Card, 80 GB, CUDA 13.2")] * 2


def test_weights_are_found_where_one_works_and_in_torchs_folder(found, tmp_path):
    assert found("weights")[0][0] == "missing"
    for path in ("here/sam_vit_b_01ec64.pth", "here/weights/medsam_vit_b.pth", "torch/hub/checkpoints/sam_vit_h.pth"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(bytes(2_000_000))
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "sam_vit_h.pth"
    assert found("weights") == [
        ("ok", "sam_vit_b_01ec64.pth, 2 MB: --set base=sam_vit_b_01ec64.pth"),
        ("ok", "weights/medsam_vit_b.pth, 2 MB: --set base=weights/medsam_vit_b.pth"),
        ("ok", f"{cached}, 2 MB: --set base={cached}"),
    ]


def test_monai_labels_environment_is_found_beside_this_one(found, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "project" / ".venv"))
    assert found("monailabel") == [("missing", "only to serve a run; make monailabel-env, in the source folder")]
    beside = tmp_path / "project" / ".venv-monailabel"
    (beside / "lib" / "python3.11" / "site-packages" / "monailabel").mkdir(parents=True)
    assert found("monailabel") == [("ok", str(beside))]


def test_little_space_and_a_folder_that_cannot_be_written_to_are_told(found, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 56e9))
    assert found("disk") == [("ok", "56 GB free in here/")]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2e9))
    assert found("disk") == [("missing", "2 GB free in here/: little for a training with its bank; free some space")]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written to; give an --output elsewhere" in found("disk")[0][1]
