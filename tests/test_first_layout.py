"""A run of the first layout, packed and not, is opened, segmented with and evaluated as it was then.

With retrieval as of 2026-12-01: since then labels are transferred only near the neighbours' labels, which changed 4 of
18,432 voxels. Without retrieval every voxel is that of then.
"""

import json
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from forked import run_python

from ragsam.cli import main

ARCHIVE = Path(__file__).parent / "fixtures" / "first_layout" / "first_layout.tar.xz"
CASES = ("case-te-ras", "case-te-flipped", "case-te-oblique")


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The folder of what the last commit of the first layout left; not to be written to."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    with zipfile.ZipFile(folder / "run.zip") as packed:  # which has the weights' own bytes
        for name in ("models/model.safetensors", "models/model.pt"):
            packed.extract(name, folder / "run")
    for config in (folder / "run" / "configs").glob("*.yaml"):  # the data lie where this machine has room
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("/tmp/first_layout/study", str(folder / "study")), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["folder", "packed"])
def run(request, before, tmp_path_factory):
    """The run as a folder, and unpacked from the zip that was packed then."""
    if request.param == "folder":
        return before / "run"
    folder = tmp_path_factory.mktemp("unpacked") / "run"
    assert main(["unpack", str(before / "run.zip"), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def segmented(run, before, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmented")
    assert main(["segment", str(run), str(before / "study" / "datalist.json"), "--output", str(folder)]) == 0
    return folder


def labels(folder, case):
    return np.asarray(nib.load(folder / f"{case}.nii.gz").dataobj)


def assert_same_labels(folder, expected):
    """Of the header the affine: the codes are the image's own since, where they were the sform's alone."""
    for case in CASES:
        np.testing.assert_array_equal(labels(folder, case), labels(expected, case))
        assert set(np.unique(labels(folder, case))) == {0, 1, 2}
        affines = [nib.load(where / f"{case}.nii.gz").affine for where in (folder, expected)]
        np.testing.assert_array_equal(*affines)


def assert_same_json(path, expected):
    assert json.loads(path.read_text(), object_hook=without_news) == json.loads(expected.read_text())


def without_news(entry):
    """Return a JSON object without the metric that has come since, and the words on it."""
    entry.pop("hd95_area_mm", None)
    if "protocol_rules" in entry:
        by_area = re.compile(r" HD95 by area: .*? as DeepMind's surface-distance\.")
        entry["protocol_rules"] = [by_area.sub("", rule) for rule in entry["protocol_rules"]]
    if "metrics" in entry:
        entry["metrics"] = [name for name in entry["metrics"] if name != "hd95_area_mm"]
    return entry


def test_every_voxel_is_labelled_as_before(segmented, before):
    assert_same_labels(segmented, before / "segmented")


def test_the_neighbours_are_those_of_before(segmented, before):
    assert_same_json(segmented / "retrieval.json", before / "segmented" / "retrieval.json")
    found = json.loads((segmented / "retrieval.json").read_text())["cases"]
    assert set(found) == set(CASES)
    assert all(len(neighbours) == 8 for case in found.values() for neighbours in case["slices"].values())


def test_without_retrieval_other_voxels_are_labelled_as_before(run, before, tmp_path):
    """The neighbours count: a run that lost them would pass for one that has none."""
    datalist = str(before / "study" / "datalist.json")
    assert main(["segment", str(run), datalist, "--no-retrieval", "--output", str(tmp_path)]) == 0
    assert_same_labels(tmp_path, before / "without_retrieval")
    for case in CASES:
        assert (labels(tmp_path, case) != labels(before / "segmented", case)).any()


def test_it_is_evaluated_as_before(segmented, before, tmp_path):
    reference = ["--reference", str(before / "study" / "datalist.json"), "--prediction", str(segmented)]
    assert main(["evaluate", *reference, "--output", str(tmp_path)]) == 0
    assert_same_json(tmp_path / "metrics.json", before / "evaluated" / "metrics.json")


def test_monai_runs_its_evaluation(run, before, tmp_path):
    options = {
        "bundle_root": run,
        "config_file": run / "configs" / "evaluate.yaml",
        "datalist": before / "study" / "datalist.json",
        "output_dir": tmp_path / "segmented",
        "evaluation_dir": tmp_path / "evaluated",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = run_python(["-m", "monai.bundle", "run", *words], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_labels(tmp_path / "segmented", before / "segmented")
    assert_same_json(tmp_path / "segmented" / "retrieval.json", before / "segmented" / "retrieval.json")
    assert_same_json(tmp_path / "evaluated" / "metrics.json", before / "evaluated" / "metrics.json")


def test_it_is_indexed_as_before(before, tmp_path):
    assert main(["index", str(before / "run"), "--output", str(tmp_path / "bank")]) == 0
    for kind in ("descriptors", "images", "labels"):
        (made,), (stored,) = ((folder / "bank").glob(f"{kind}-*.npy") for folder in (tmp_path, before / "run"))
        np.testing.assert_array_equal(np.load(made), np.load(stored))


def test_its_bank_grows(before, tmp_path, capsys):
    bank = shutil.copytree(before / "run" / "bank", tmp_path / "bank")
    grow = ["--add", str(before / "study" / "datalist.json"), "--section", "validation", "--output", str(bank)]
    assert main(["index", str(before / "run"), *grow]) == 0
    assert "36 slices of 5 patients" in capsys.readouterr().out


def test_it_is_packed_anew_and_segments_the_same(before, tmp_path):
    assert main(["pack", str(before / "run"), "--output", str(tmp_path / "run.zip")]) == 0
    assert main(["unpack", str(tmp_path / "run.zip"), "--output", str(tmp_path / "run")]) == 0
    datalist = str(before / "study" / "datalist.json")
    assert main(["segment", str(tmp_path / "run"), datalist, "--output", str(tmp_path / "out")]) == 0
    assert_same_labels(tmp_path / "out", before / "segmented")


def test_it_is_described_and_verified(run, capsys):
    assert main(["describe", str(run)]) == 0
    assert "vit_tiny" in capsys.readouterr().out
    assert main(["verify", str(run)]) == 0
