"""Parts of a command, merged: the same as a single call."""

import json
import shutil
from itertools import chain

import nibabel as nib
import numpy as np
import pytest

from ragsam.api.evaluate import evaluate
from ragsam.api.index import write_bank
from ragsam.api.merge import merge
from ragsam.api.segment import segment_with_run
from ragsam.cli import main
from ragsam.data.datalist import load_datalist
from ragsam.errors import InputError
from ragsam.parts import Part, part_folders
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.bank_manifest import read_manifest


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_hold_every_case_once_in_order(count):
    cases = list("abcdefg")
    parts = [Part(number, count).of(cases) for number in range(1, count + 1)]
    assert [*chain.from_iterable(parts)] == cases
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "1/2/3", "-1/2", "01/2"])
def test_another_text_is_refused(text):
    with pytest.raises(InputError, match="the first of 8 parts is 1/8"):
        Part.of_text(text)


def test_a_part_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="no part in it"):
        part_folders(tmp_path)
    (tmp_path / "part-1-of-3").mkdir()
    (tmp_path / "part-3-of-3").mkdir()
    with pytest.raises(InputError, match="part 2 of 3 is missing; run it with --part 2/3"):
        part_folders(tmp_path)
    (tmp_path / "part-1-of-2").mkdir()
    with pytest.raises(InputError, match="parts of 2 and of 3"):
        part_folders(tmp_path)


def test_more_parts_than_cases_are_refused(run, study, tmp_path):
    with pytest.raises(InputError, match="--part 1/4: there are 3 cases; ask for fewer parts"):
        segment_with_run(run, [study], tmp_path / "out", part="1/4")
    assert not (tmp_path / "out").exists()


def test_a_bank_of_parts_is_that_of_one_call(run, tmp_path):
    """Five cases of four patients: one patient's cases are in both parts, and stay one patient."""
    for number in (2, 1):
        write_bank(run, tmp_path / "bank", part=f"{number}/2")
    merge(tmp_path / "bank", run=run)
    merged, single = Bank.open(tmp_path / "bank"), Bank.open(run / "bank")
    for name in ("descriptors", "labels", "images", "slices"):
        assert np.array_equal(getattr(merged, name), getattr(single, name)), name
    for name in ("patients", "cases"):  # the salts differ, and so do the pseudonyms
        ours, theirs = (np.unique(getattr(one, name), return_inverse=True)[1] for one in (merged, single))
        assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == len(set(theirs.tolist())), name
    ours, theirs = read_manifest(tmp_path / "bank"), read_manifest(run / "bank")
    for name in ("slices", "patients", "cases", "fit", "keeps"):
        assert ours[name] == theirs[name], name
    assert ours["agreement"]["dice"] == theirs["agreement"]["dice"]
    assert len(ours["stamps"]) == len(theirs["stamps"]) == 5
    assert sorted(ours["scores"].values()) == pytest.approx(sorted(theirs["scores"].values()), abs=1e-6)
    again = read_manifest(tmp_path / "bank")
    merge(tmp_path / "bank", run=run)
    assert read_manifest(tmp_path / "bank") == again


def test_banks_that_do_not_go_together_are_refused(run, tmp_path):
    for number in (1, 2):
        write_bank(run, tmp_path / "bank", part=f"{number}/2")
    shutil.rmtree(tmp_path / "bank" / "part-2-of-2")
    shutil.copytree(tmp_path / "bank" / "part-1-of-2", tmp_path / "bank" / "part-2-of-2")
    with pytest.raises(InputError, match="part-2-of-2: a case of it is in another part too"):
        merge(tmp_path / "bank", run=run)
    shutil.rmtree(tmp_path / "bank" / "part-2-of-2")
    shutil.copytree(run / "bank", tmp_path / "bank" / "part-2-of-2")
    with pytest.raises(InputError, match="part-2-of-2: was not finished; run this part again"):
        merge(tmp_path / "bank", run=run)
    shutil.copy(tmp_path / "bank" / "part-1-of-2" / "part.json", tmp_path / "bank" / "part-2-of-2")
    with pytest.raises(InputError, match="part-2-of-2: made with another salt than part-1-of-2"):
        merge(tmp_path / "bank", run=run)
    assert not (tmp_path / "bank" / "manifest.json").exists()
    with pytest.raises(InputError, match="--part: not with --add"):
        write_bank(run, tmp_path / "bank", add=tmp_path / "more.json", part="1/2")


def test_label_volumes_of_parts_are_those_of_one_call(run, study, segmented, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2):
        assert main(["segment", str(run), str(study), "--output", str(out), "--part", f"{number}/2"]) == 0
    assert main(["merge", str(out)]) == 0
    names = {path.name for path in segmented.iterdir() if path.name != ".ragsam-written.jsonl"}
    assert {path.name for path in out.iterdir() if path.is_file() and path.name != ".ragsam-written.jsonl"} == names
    for name in names:
        if name.endswith(".nii.gz"):
            assert np.array_equal(nib.load(out / name).dataobj, nib.load(segmented / name).dataobj)
        else:
            assert json.loads((out / name).read_text()) == json.loads((segmented / name).read_text()), name
    assert main(["merge", str(out)]) == 0


def test_label_volumes_of_other_weights_or_that_were_changed_are_refused(run, study, tmp_path):
    out = tmp_path / "out"
    segment_with_run(run, [study], out, part="1/2")
    segment_with_run(run, [study], out, part="2/2", retrieval=False)
    with pytest.raises(InputError, match="part-2-of-2: `retrieval` is not as in part-1-of-2; run this part again"):
        merge(out)
    segment_with_run(run, [study], out, part="2/2", options={"test_shift": 2})
    with pytest.raises(InputError, match="part-2-of-2: `options` is not as in part-1-of-2"):
        merge(out)
    fewer = load_datalist(study).section("test")
    segment_with_run(run, [case.image for case in fewer[:2]], out, part="2/2")
    with pytest.raises(InputError, match="part-2-of-2: `cases` is not as in part-1-of-2"):
        merge(out)
    shutil.rmtree(out / "part-2-of-2")
    segment_with_run(run, [study], out, part="2/2")
    (out / "part-1-of-2" / "case-te-ras.nii.gz").write_bytes(b"other")
    with pytest.raises(InputError, match=r"case-te-ras.nii.gz: missing, or not as ragsam wrote it"):
        merge(out)
    assert not (out / "provenance.json").exists()


def test_an_evaluation_of_parts_is_that_of_one_call(study, segmented, tmp_path, monkeypatch):
    """A folder that is called as the card does not stand for it."""
    single = evaluate(study, segmented, tmp_path / "single", labels="card", card="hippocampus")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hippocampus").mkdir()
    for number in (1, 2, 3):
        words = ["--reference", study, "--prediction", segmented, "--output", tmp_path / "parts", "--labels", "card"]
        words += ["--card", "hippocampus"]
        assert main(["evaluate", *map(str, words), "--part", f"{number}/3"]) == 0
        assert not (tmp_path / "parts" / "metrics.json").exists()
    assert main(["merge", str(tmp_path / "parts")]) == 0
    for name in ("metrics.json", "metrics.csv", "metrics.md", "metrics.tex", "report.html"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "single" / name).read_bytes(), name
    assert single["n_cases"] == 3


def test_parts_of_an_evaluation_need_the_numbering_and_the_same_arguments(study, segmented, tmp_path):
    with pytest.raises(InputError, match="--labels: needed with --part"):
        evaluate(study, segmented, tmp_path / "out", part="1/2")
    evaluate(study, segmented, tmp_path / "out", labels="card", part="1/2")
    evaluate(study, segmented, tmp_path / "out", labels="card", part="2/2", viewer=[])
    with pytest.raises(InputError, match="part-2-of-2: another viewer than in part-1-of-2; evaluate the part again"):
        merge(tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()
    with pytest.raises(InputError, match="--run: of a bank alone"):
        merge(tmp_path / "out", run=tmp_path)
