"""The most likely mistakes: one line each, which says what is wrong, where, and what to type."""

from __future__ import annotations

import json
import shlex

import nibabel as nib
import numpy as np
import pytest
from small_dicom import write_series
from small_study import affine_of, anatomy, log_lines, save_volume

from ragsam.cli import main


@pytest.fixture(scope="module")
def place(run, study, tmp_path_factory):
    """A folder with a run, its datalist, volumes and labels, sound and faulty."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "run").symlink_to(run)
    content = json.loads(study.read_text())
    for section in ("training", "validation", "test"):
        for case in content[section]:
            for kind in ("image", "label"):
                case[kind] = str(study.parent / case[kind])
    write_list(folder / "list.json", content)
    twice = json.loads(json.dumps(content))
    twice["validation"][0]["patient"] = twice["training"][0]["patient"]
    write_list(folder / "twice.json", twice)
    image, label = anatomy(0)
    save_volume(folder / "mr.nii.gz", image, affine_of())
    wrong = {"value": (label * 7, affine_of()), "grid": (label, affine_of(origin=(0, 0, 0)))}
    for name, (array, affine) in wrong.items():
        path = save_volume(folder / f"{name}-label.nii.gz", array, affine)
        faulty = json.loads(json.dumps(content))
        faulty["training"][0]["label"] = str(path)
        write_list(folder / f"{name}.json", faulty)
    (folder / "cut.nii.gz").write_bytes((folder / "mr.nii.gz").read_bytes()[:2000])
    for case in "ab":
        save_volume(folder / "mine" / "images" / f"{case}.nii.gz", image, affine_of())
        save_volume(folder / "mine" / "labels" / f"{case}.nii.gz", label, affine_of())
    (folder / "mine.yaml").write_text(
        "name: mine\nmodality: MR\norgans: [{name: one, value: 1}, {name: two, value: 2}]\n"
    )
    for number in (1, 2):
        for path in write_series(folder / "two" / str(number), image, series=f"1.2.{number}"):
            path.rename(folder / "two" / f"{number}-{path.name}")
    (folder / "taken").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), folder / "taken" / "mr.nii.gz")
    prompts = {"mr": [{"organ": "liver", "points": [{"i": 1, "j": 1, "k": 1}]}]}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return folder


def write_list(path, content):
    path.write_text(json.dumps(content))


#: What was typed, and what the line must name: what is wrong, where, and the way out.
MISTAKES = {
    "card misspelt": ("prepare hipocampus mine --output new.json", "hipocampus", "no such card", "hippocampus"),
    "no such raw folder": ("prepare hippocampus nowhere --output new.json", "nowhere", "check the path"),
    "patients unknown": ("prepare mine.yaml mine --output new.json", "no patient key", "--patients FILE.csv"),
    "no such datalist": ("check nowhere.json", "nowhere.json", "check the path"),
    "patient in two sections": ("check twice.json", "case-va0", "same patient", "in one section"),
    "label off the card": ("check value.json", "case-tr0", "label 7, 14", "label_map"),
    "label on another grid": ("check grid.json", "case-tr0", "24.4 mm", "on the image's"),
    "no such bundle": ("train sam_laura --data list.json --output new", "sam_laura", "sam_lora"),
    "option misspelt": ("train sam_lora --data list.json --output new --set epoch=3", "epoch", "did you mean epochs"),
    "value of another type": (
        "train sam_lora --data list.json --output new --set epochs=many",
        "'many'",
        "whole number",
    ),
    "value out of range": ("train sam_lora --data list.json --output new --set learning_rate=-1", "-1", "from 0 on"),
    "no such weights": ("train sam_lora --data list.json --output new --set base=sam.pth", "sam.pth", "check the path"),
    "no such recipe": ("train sam_lora --data list.json --output new --recipe samd", "samd", "samed"),
    "output in use": ("train sam_lora --data list.json --output mine", "mine", "choose another output"),
    "not a run": ("segment nowhere mr.nii.gz --output out", "nowhere", "`ragsam train`"),
    "run forgotten": ("segment mr.nii.gz --output out", "mr.nii.gz", "RUN or INPUT is missing"),
    "no such volume": ("segment run nowhere.nii.gz --output out", "nowhere", "check the path"),
    "volume cut short": ("segment run cut.nii.gz --output out", "cut", "copy it again"),
    "several DICOM series": ("segment run two --output out", "2 DICOM series", "--series UID"),
    "labels of others": ("segment run mr.nii.gz --output taken", "taken/mr.nii.gz", "--overwrite"),
    "no such bank": ("segment run mr.nii.gz --output out --bank nowhere", "bank nowhere", "`ragsam index`"),
    "organ misspelt": ("segment run mr.nii.gz --output out --prompts prompts.json", "liver", "anterior, posterior"),
    "no card": ("evaluate --reference mine/labels --prediction mine/labels --output out", "--card", "name a card"),
    "no such studies": ("serve run --studies nowhere", "nowhere", "make one"),
}


@pytest.mark.parametrize("command", MISTAKES, ids=lambda name: name.replace(" ", "-"))
def test_a_mistake_is_one_line_with_a_way_out(command, place, monkeypatch, capsys):
    typed, *words = MISTAKES[command]
    monkeypatch.chdir(place)
    assert main(shlex.split(typed)) == 2
    lines = log_lines(capsys.readouterr().err)
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]
