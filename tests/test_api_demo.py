"""The demo: the whole main job in one call, and what it must never remove."""

import shutil

import pytest
from PIL import Image
from small_study import files_below

from ragsam.api.demo import run_demo
from ragsam.errors import InputError
from ragsam.io.documents import read_json

SHORT = {"epochs": 1, "steps_per_epoch": 6, "batch_size": 8, "validate_every": 1}


@pytest.fixture(scope="module")
def demo(study, tmp_path_factory):
    """The folder of a demo on the small study, run where an older demo stood, and what it returned."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    folder.mkdir()
    (folder / "demo.json").write_text('{"state": "done"}')
    (folder / "evaluation-with-retrieval").mkdir()
    (folder / "evaluation-with-retrieval" / "older.txt").write_text("an older demo's file")
    (folder / "notes.txt").write_text("a person's file")
    return folder, run_demo(folder, datalist=study, **SHORT)


def test_demo_measures_both_ways_and_compares_them(demo):
    folder, result = demo
    both = {how: read_json(folder / f"evaluation-{how}-retrieval" / "metrics.json") for how in ("with", "without")}
    for how, metrics in both.items():
        assert metrics["n_cases"] == 3
        assert metrics["faults"] == []
        assert result[how] == metrics["summary"]["mean"]["dice"]
        assert (folder / f"evaluation-{how}-retrieval" / "metrics.csv").read_text().count("\n") == 1 + 3 * 2
        masks = [name for name in files_below(folder / f"predictions-{how}-retrieval") if name.endswith(".nii.gz")]
        assert len(masks) == 3
    assert both["with"]["cases"] != both["without"]["cases"]
    assert (folder / "predictions-with-retrieval" / "retrieval.json").is_file()
    assert not (folder / "predictions-without-retrieval" / "retrieval.json").exists()


def test_demo_shows_the_comparison_the_neighbours_and_a_picture(demo):
    folder, result = demo
    pages = {how: (folder / f"evaluation-{how}-retrieval" / "report.html").read_text() for how in ("with", "without")}
    assert result["report"] == str(folder / "evaluation-with-retrieval" / "report.html")
    assert "retrieval switched off" in pages["with"]
    assert "retrieval switched off" not in pages["without"]
    assert "30\nslices of 4 patients" in pages["with"]
    assert pages["with"].count("<img") > pages["without"].count("<img")  # the neighbours and the comparison
    assert "case-tr" not in pages["with"]
    assert "patient-anna" not in pages["with"]
    with Image.open(result["picture"]) as picture:
        assert min(picture.size) > 50


def test_demo_replaces_an_older_demo_and_says_how_it_went(demo):
    folder, result = demo
    assert not (folder / "evaluation-with-retrieval" / "older.txt").exists()
    assert (folder / "notes.txt").read_text() == "a person's file"
    mark = read_json(folder / "demo.json")
    assert mark["state"] == "done"
    assert mark["with"] == result["with"]
    assert set(mark["seconds"]) == {"data", "train", "index", "segment", "report"}
    assert (folder / "run" / "models" / "model.safetensors").is_file()
    assert (folder / "run" / "bank" / "manifest.json").is_file()


def test_demo_refuses_a_folder_that_holds_something_else(study, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something other than an earlier demo; choose another --output"):
        run_demo(tmp_path, datalist=study, **SHORT)
    with pytest.raises(InputError, match="holds something other"):
        run_demo(tmp_path / "thesis.txt", datalist=study, **SHORT)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert files_below(tmp_path) == ["thesis.txt"]


def test_demo_never_removes_the_data_it_is_given(study, tmp_path):
    """The phantoms of an older demo lie in its folder: they can be its data no more than they can be moved."""
    (tmp_path / "demo.json").write_text('{"state": "done"}')
    shutil.copytree(study.parent, tmp_path / "data")
    before = files_below(tmp_path)
    with pytest.raises(InputError, match="which is replaced; choose another --output"):
        run_demo(tmp_path, datalist=tmp_path / "data" / "datalist.json", **SHORT)
    assert files_below(tmp_path) == before


def test_demo_keeps_the_older_demo_where_the_data_are_missing(tmp_path):
    (tmp_path / "demo.json").write_text('{"state": "done"}')
    (tmp_path / "report.html").write_text("older")
    with pytest.raises(InputError, match="no such file"):
        run_demo(tmp_path, datalist=tmp_path / "none.json", **SHORT)
    assert files_below(tmp_path) == ["demo.json", "report.html"]


def test_demo_makes_phantoms_where_no_data_are_given(study, tmp_path, monkeypatch):
    """Full phantoms take minutes: the small study stands in for them."""
    asked = []

    def small(folder):
        asked.append(folder)
        shutil.copytree(study.parent, folder)
        return folder / "datalist.json"

    def stop(run, config):
        raise InputError(f"{config}: far enough")

    monkeypatch.setattr("ragsam.api.demo.write_phantoms", small)
    monkeypatch.setattr("ragsam.api.demo.run_config", stop)
    with pytest.raises(InputError, match="train: far enough"):
        run_demo(tmp_path / "demo", epochs=3)
    assert asked == [tmp_path / "demo" / "data"]
    config = (tmp_path / "demo" / "run" / "configs" / "train.yaml").read_text()
    assert "\nepochs: 3  #" in config
    assert "\nsteps_per_epoch: 25  #" in config
    assert read_json(tmp_path / "demo" / "demo.json") == {"state": "started"}
