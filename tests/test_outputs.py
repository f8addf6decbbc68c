"""Outputs: nothing that is read, and nothing that the package did not write, is ever replaced."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from small_study import files_below

from ragsam.cli import main
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.outputs import RECORD, Outputs


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_file_of_ones_own_is_replaced_until_a_person_changes_it(tmp_path):
    for text in ("first", "second"):
        with Outputs(tmp_path, ["a.txt"]):
            write(tmp_path, "a.txt", text)
    write(tmp_path, "a.txt", "corrected by hand")
    with pytest.raises(InputError, match=r"a.txt: exists, and is not as ragsam wrote it; .* --overwrite"):
        Outputs(tmp_path, ["a.txt"])
    with Outputs(tmp_path, ["a.txt"], overwrite=True):
        write(tmp_path, "a.txt", "third")
    Outputs(tmp_path, ["a.txt"])


def test_other_programs_files_stay_and_nothing_is_noted(tmp_path):
    write(tmp_path, "b.txt", "a person's")
    write(tmp_path, "c.txt", "too")
    with pytest.raises(InputError, match=r"b.txt \(and 1 more\): exists"):
        Outputs(tmp_path, ["a.txt", "b.txt", "c.txt"])
    os.symlink("nowhere", tmp_path / "dangling")
    with pytest.raises(InputError, match="dangling: exists"):
        Outputs(tmp_path, ["dangling"])
    assert files_below(tmp_path) == ["b.txt", "c.txt"]


def test_file_of_a_killed_command_is_replaced_by_the_next(tmp_path):
    Outputs(tmp_path, ["a.txt", "b.txt"])
    write(tmp_path, "a.txt", "then the power failed")
    with (tmp_path / RECORD).open("a") as record:
        record.write('{"file": "c.txt", "is"')
    with Outputs(tmp_path, ["a.txt", "b.txt"]):
        write(tmp_path, "a.txt", "whole")
    write(tmp_path, "b.txt", "a person's: the command that finished did not write it")
    with pytest.raises(InputError, match=r"b.txt: exists"):
        Outputs(tmp_path, ["a.txt", "b.txt"])


def test_command_that_writes_nothing_leaves_no_trace(tmp_path):
    with Outputs(tmp_path / "new" / "folder", ["a.txt"]):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spelling", ["same", "hard link", "link", "link of the folder", "capitals", "accents", "folder"]
)
def test_what_is_read_is_never_written(tmp_path, spelling):
    folder = tmp_path / "data"
    name = "caf\u00e9.nii.gz" if spelling == "accents" else "ct.nii.gz"
    write(folder, name, "the image")
    reads, names, output = [folder / name], ["ct.nii.gz"], folder
    if spelling == "hard link":
        output = tmp_path / "out"
        output.mkdir()
        os.link(folder / "ct.nii.gz", output / "ct.nii.gz")
    elif spelling == "link":
        os.symlink(folder / "ct.nii.gz", tmp_path / "link.nii.gz")
        reads = [tmp_path / "link.nii.gz"]
    elif spelling == "link of the folder":
        os.symlink(folder, tmp_path / "out")
        output = tmp_path / "out"
    elif spelling == "capitals":
        names = ["CT.NII.GZ"]
    elif spelling == "accents":
        names = ["cafe\u0301.nii.gz"]
    elif spelling == "folder":
        reads, names = [folder], ["other.nii.gz"]
    with pytest.raises(
        InputError, match="an input of the same command, which is never replaced; choose another --output"
    ):
        Outputs(output, names, reads=reads, overwrite=True)
    assert (folder / name).read_text() == "the image"
    assert not (folder / RECORD).exists()


def test_record_that_is_a_link_is_not_written_through(tmp_path):
    write(tmp_path, "precious.txt", "years of work")
    (tmp_path / "out").mkdir()
    os.symlink(tmp_path / "precious.txt", tmp_path / "out" / RECORD)
    with pytest.raises(InputError, match="cannot be written"):
        Outputs(tmp_path / "out", ["a.txt"])
    assert (tmp_path / "precious.txt").read_text() == "years of work"


@pytest.fixture
def volumes(study, tmp_path):
    """A folder of one image and one of its label, both called `case.nii.gz`, to be kept as they are."""
    case = load_datalist(study).section("test")[0]
    for kind, path in (("image", case.image), ("label", case.label)):
        (tmp_path / kind).mkdir()
        shutil.copyfile(path, tmp_path / kind / "case.nii.gz")
    return tmp_path


def kept(volumes, study):
    case = load_datalist(study).section("test")[0]
    pairs = ((volumes / "image" / "case.nii.gz", case.image), (volumes / "label" / "case.nii.gz", case.label))
    return all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in pairs)


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_segment_never_writes_over_an_image_or_a_label(run, study, volumes, capsys, overwrite):
    image = volumes / "image" / "case.nii.gz"
    case = {"case": "case", "patient": "p", "image": "image/case.nii.gz", "label": "label/case.nii.gz"}
    write(volumes, "data.json", json.dumps({"card": "hippocampus", "test": [case]}))
    for given, output in ((image, image.parent), (volumes / "data.json", volumes / "label")):
        assert main(["segment", str(run), str(given), "--output", str(output), "--no-retrieval", *overwrite]) == 2
        assert "an input of the same command" in capsys.readouterr().err
    assert kept(volumes, study)
    assert files_below(volumes) == ["data.json", "image/case.nii.gz", "label/case.nii.gz"]


def test_segment_replaces_its_own_label_and_not_a_corrected_one(run, study, volumes, capsys):
    command = ["segment", str(run), str(volumes / "image" / "case.nii.gz"), "--output", str(volumes / "out")]
    command.append("--no-retrieval")
    label = volumes / "out" / "case.nii.gz"
    assert main([*command, "--set", "test_shift=2", "--probabilities"]) == 0
    assert main([*command, "--set", "test_shift=0"]) == 0
    first = label.read_bytes()
    volume = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(volume.shape, np.uint8), volume.affine), label)
    corrected = label.read_bytes()
    assert main(command) == 2
    assert "case.nii.gz: exists, and is not as ragsam wrote it" in capsys.readouterr().err
    assert label.read_bytes() == corrected
    assert main([*command, "--overwrite"]) == 0
    assert label.read_bytes() == first
    assert main([*command, "--probabilities"]) == 0


def test_segment_into_a_folder_of_others_labels_writes_nothing(run, volumes, study, capsys):
    """The predictions of another program, of the same names."""
    command = ["segment", str(run), str(volumes / "image" / "case.nii.gz"), "--output", str(volumes / "label")]
    assert main([*command, "--no-retrieval"]) == 2
    assert "case.nii.gz: exists" in capsys.readouterr().err
    assert kept(volumes, study)
    assert files_below(volumes / "label") == ["case.nii.gz"]


@pytest.fixture(scope="module")
def evaluated(study, segmented, tmp_path_factory):
    """An evaluation's folder."""
    folder = tmp_path_factory.mktemp("evaluated") / "ev"
    assert main(["evaluate", "--reference", str(study), "--prediction", str(segmented), "--output", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("segment RUN STUDY --output OUT", "case-te-ras.nii.gz"),
        ("segment RUN STUDY --output OUT", "provenance.json"),
        ("segment RUN STUDY --output OUT", "retrieval.json"),
        ("segment RUN STUDY --output OUT --probabilities", "probabilities/case-te-ras/anterior.nii.gz"),
        ("evaluate --reference STUDY --prediction SEGMENTED --output OUT", "report.html"),
        ("evaluate --reference STUDY --prediction SEGMENTED --output OUT", "metrics.csv"),
        ("compare EVALUATED EVALUATED/../ev/metrics.json --output OUT", "compare.json"),
        ("check STUDY --output OUT", "check.html"),
        ("check STUDY --json OUT/check.json", "check.json"),
        ("prepare hippocampus STUDY/.. --layout plain --output OUT/data.json", "data.json"),
        ("index RUN --output OUT", "manifest.json"),
        ("index RUN --output OUT", "draft.jsonl"),
        ("rank RUN STUDY --json OUT/rank.json", "rank.json"),
        ("describe RUN --json OUT/about.json", "about.json"),
        ("pack RUN --output OUT/run.zip", "run.zip"),
        ("export RUN --to torchscript --output OUT/net.pt", "net.pt"),
        ("export RUN --to onnx --output OUT", "net.onnx"),
        ("train sam_lora --data STUDY --output OUT", "notes.txt"),
        ("train sam_lora --data STUDY --output OUT --resume", "configs/train.yaml"),
        ("train sam_lora --data STUDY --output OUT --folds 2", "notes.txt"),
        ("train sam_lora --data STUDY --output OUT --folds 2 --resume", "fold-0.json"),
        ("unpack OUT/../none.zip --output OUT", "notes.txt"),
        ("demo --data STUDY --output OUT", "demo.json"),
    ],
)
def test_no_command_replaces_another_programs_file(run, study, segmented, evaluated, tmp_path, capsys, command, output):
    shutil.copytree(evaluated, tmp_path / "other")
    places = {"RUN": run, "STUDY": study, "SEGMENTED": segmented, "OUT": tmp_path / "out"}
    words = command.replace("EVALUATED/../ev/metrics.json", str(tmp_path / "other"))
    places["EVALUATED"] = evaluated
    for name in ("EVALUATED", "SEGMENTED", "STUDY", "RUN", "OUT"):
        words = words.replace(name, str(places[name]))
    write(tmp_path / "out", output, "a person's file")
    if output == "manifest.json":
        write(tmp_path / "out", output, "{}")
    before = (tmp_path / "out" / output).read_bytes()
    assert main(words.replace("datalist.json/..", "").split()) == 2
    assert len(capsys.readouterr().err.splitlines()) <= 3
    assert (tmp_path / "out" / output).read_bytes() == before
    assert files_below(tmp_path / "out") == [output]


@pytest.mark.parametrize(
    "command",
    [
        "check D/datalist.json --json D/datalist.json",
        "evaluate --reference D/datalist.json --prediction SEGMENTED --baseline OUT/metrics.json --output OUT",
        "compare OUT EVALUATED --output OUT",
    ],
)
def test_no_command_replaces_what_it_reads(study, segmented, evaluated, tmp_path, capsys, command):
    shutil.copytree(study.parent, tmp_path / "D")
    shutil.copytree(evaluated, tmp_path / "out")
    shutil.copyfile(tmp_path / "out" / "metrics.json", tmp_path / "out" / "compare.json")
    words = command.replace("D/", f"{tmp_path}/D/").replace("OUT", str(tmp_path / "out"))
    words = words.replace("SEGMENTED", str(segmented)).replace(
        "compare " + str(tmp_path / "out"), "compare " + str(tmp_path / "out" / "compare.json")
    )
    words = words.replace("EVALUATED", str(evaluated))
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    assert main([*words.split(), "--overwrite"]) == 2
    assert "an input of the same command, which is never replaced" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before
