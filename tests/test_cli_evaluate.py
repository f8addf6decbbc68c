"""`ragsam evaluate` on two folders, as from any system: what is wrong is named, the rest is evaluated."""

from __future__ import annotations

import json
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from small_study import files_below, log_lines

from ragsam.cli import main

EVIL = "<script>alert(1)<script>"


def save(path, labels, affine=None):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.eye(4) if affine is None else affine), path)


def labels():
    volume = np.zeros((10, 8, 6), np.uint8)
    volume[2:5, 2:6, 1:5], volume[6:9, 2:6, 2:4] = 1, 2
    return volume


@pytest.fixture
def folders(tmp_path):
    """Seven references; predictions of which one is sound, one has an evil name, and the others are at fault."""
    unknown = labels()
    unknown[0, 0, :2] = 9
    predictions = {"sound": labels(), EVIL: labels(), "moved": labels(), "cut": labels()[:, :, :5], "unknown": unknown}
    for case in (*predictions, "missing", "unreadable"):
        save(tmp_path / "reference" / f"{case}.nii.gz", labels())
    for case, volume in predictions.items():
        save(tmp_path / "prediction" / f"{case}.nii.gz", volume, np.diag([1, 1, 1.1, 1]) if case == "moved" else None)
    (tmp_path / "prediction" / "unreadable.nii.gz").write_bytes(b"\x1f\x8b no volume")
    (tmp_path / "reference" / "broken.nii.gz").write_bytes(b"")
    save(tmp_path / "prediction" / "broken.nii.gz", labels())
    return tmp_path


def evaluate(folder, *options):
    places = [f"--{name}={folder / name}" for name in ("reference", "prediction", "output")]
    return main(["evaluate", *places, "--card", "hippocampus", *options])


def test_every_fault_is_named_and_the_rest_is_evaluated(folders, capsys):
    """Rows 9, 10, 13, 18 and 32."""
    assert evaluate(folders) == 2
    faults = sorted(line.removeprefix("ragsam: ") for line in log_lines(capsys.readouterr().err))
    told = {
        "broken (reference): ": "the file is empty",
        "cut: ": "the prediction is not on the reference's grid, its shape is (10, 8, 5)",
        "missing: ": "no prediction",
        "moved: ": "the prediction is not on the reference's grid, it is up to 0.5 mm away",
        "unknown (prediction): ": "label 9 is not on card hippocampus (0-2)",
        "unreadable (prediction): ": "damaged",
    }
    assert len(faults) == len(told)
    for line, (start, cause) in zip(faults, told.items(), strict=True):
        assert line.startswith(start)
        assert cause in line
        assert str(folders) not in line
    output = folders / "output"
    assert files_below(output) == [
        "metrics.csv", "metrics.json", "metrics.md", "metrics.tex", "report.html",
    ]  # fmt: skip
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    dice = {case["case"]: case["organs"]["anterior"]["dice"] for case in metrics["cases"]}
    assert dice == {EVIL: 1, "cut": 0, "missing": 0, "moved": 0, "sound": 1, "unknown": 1, "unreadable": 0}
    assert metrics["unscored"] == ["broken"]
    assert sorted(metrics["faults"]) == faults
    table = pd.read_csv(output / "metrics.csv")
    assert table.groupby("case")["status"].first()[EVIL] == "ok"
    page = (output / "report.html").read_text(encoding="utf-8")
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;script&gt;" in page


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("terminal", [False, True])
def test_it_is_shown_how_far_it_is(folders, capsys, caplog, monkeypatch, jobs, terminal):
    """A bar on a terminal; elsewhere a plain line, the last case being told in any case."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    evaluate(folders, "--jobs", jobs)
    shown = capsys.readouterr().err
    assert ("evaluate: 100%" in shown) == terminal
    assert ("8/8" in shown) == terminal
    assert ("evaluate: case 8 of 8, " in caplog.text) != terminal


@pytest.mark.parametrize(
    ("protocol", "metric", "of_missed"), [("clinical", "hd95_mm", 200**0.5), ("samed", "hd95_voxels", 0.0)]
)
def test_a_protocol_is_chosen_and_its_caveat_told(folders, capsys, protocol, metric, of_missed):
    """A missed organ has the diagonal of 10 x 8 x 6 mm, or no distance at all."""
    evaluate(folders, "--protocol", protocol, "--jobs", "1")
    metrics = json.loads((folders / "output" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["protocol"] == protocol
    missed = next(case["organs"]["anterior"] for case in metrics["cases"] if case["case"] == "missing")
    assert missed[metric] == pytest.approx(of_missed)
    assert ("warning: samed: HD95 is in voxels" in capsys.readouterr().err) == (protocol == "samed")
    rules = (folders / "output" / "report.html").read_text(encoding="utf-8")
    assert ("every voxel taken for a cube of side 1" in rules) == (protocol == "samed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "flare99"], "flare99: no such protocol; choose one of clinical, btcv, flare22"),
        (["--protocol", "flare22"], "flare22 is not for card hippocampus: anterior is not one of its organs"),
        (["--jobs", "0"], "--jobs 0: not a number of processes"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(folders, capsys, options, message):
    assert evaluate(folders, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folders / "output").exists()
