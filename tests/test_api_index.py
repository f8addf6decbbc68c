"""`ragsam index`: a bank of a run, killed and taken up again, grown by a datalist, and pruned by patient."""

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_study import HEADER_NAME, TRAINING, files_below

from ragsam.api import index as indexing
from ragsam.api.index import index_run
from ragsam.api.segment import segment_with_run
from ragsam.cli import main
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, load_datalist, write_datalist
from ragsam.errors import InputError
from ragsam.inference.bank_growth import case_stamp
from ragsam.retrieval import Bank, bank_removal, bank_writer
from ragsam.retrieval.bank import pseudonym
from ragsam.retrieval.bank_manifest import write_manifest
from ragsam.retrieval.bank_writer import BankWriter


def alike(one, other):
    """Whether two banks hold the same slices, each under the pseudonyms of its own salt."""
    arrays = ("descriptors", "labels", "slices", "heights", "present")
    return all(np.array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name))) for name in arrays)


def volumes_told(caplog):
    return [record.getMessage().split(",")[0] for record in caplog.records if "bank: volume" in record.getMessage()]


@pytest.fixture
def own_bank(run, tmp_path):
    return shutil.copytree(run / "bank", tmp_path / "bank")


def test_index_tells_how_far_it_is(run, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        index_run(run, tmp_path / "bank")
    assert volumes_told(caplog) == ["bank: volume 1 of 5", "bank: volume 5 of 5"]
    assert alike(Bank.open(tmp_path / "bank"), Bank.open(run / "bank"))


@pytest.mark.parametrize("step", ["measured", "committed"])
@pytest.mark.parametrize("job", [["--add", "STUDY", "--section", "validation"], ["--remove", "patient-anna"]])
def test_what_was_killed_at_its_end_succeeds_when_repeated(
    job, step, run, study, own_bank, monkeypatch, caplog, capsys
):
    """Before the manifest and after it; the bank is never without its trust figures."""
    command = ["index", str(run), "--output", str(own_bank), *[str(study) if word == "STUDY" else word for word in job]]

    def dying(*args):
        if step == "committed":
            write_manifest(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for module in (bank_writer, bank_removal):
            patch.setattr(module, "write_manifest", dying)
        assert main(command) == 130
    patients = 5 if "--add" in job else 3
    assert Bank.open(own_bank).agreement.patients == (patients if step == "committed" else 4)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert main(command) == 0
            assert Bank.open(own_bank).agreement.patients == patients
    assert capsys.readouterr().out.count(f" slices of {patients} patients\n") == 2
    end = "1 of 1 cases are in it already, made of the same files" if "--add" in job else "nothing is left to remove"
    assert caplog.records[-1].getMessage().endswith(end)


@pytest.fixture
def killed(run, tmp_path, monkeypatch):
    """A bank whose writer died in the third of five volumes."""
    calls, add = [], BankWriter.add

    def dying(writer, batch):
        calls.append(len(batch["case"]))
        if sum(calls) > 16:  # of 6 slices a volume
            raise KeyboardInterrupt
        add(writer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "bank_batches", partial(indexing.bank_batches, batch_size=4))
        patch.setattr(BankWriter, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            index_run(run, tmp_path / "bank")
    return tmp_path / "bank"


def test_a_killed_index_goes_on_behind_the_volumes_that_it_had_finished(run, killed, caplog):
    assert "manifest.json" not in files_below(killed)
    with caplog.at_level(logging.INFO):
        assert index_run(run, killed) == (killed, 30, 4)
    assert volumes_told(caplog) == ["bank: volume 3 of 5", "bank: volume 5 of 5"]
    assert alike(Bank.open(killed), Bank.open(run / "bank"))


def test_after_a_kill_a_changed_label_is_read_again(run, study, killed, tmp_path, caplog):
    """A finished volume whose label file changed since is not taken over."""
    data = load_datalist(study)
    label = data.section("training")[0].label
    stamp = label.stat().st_mtime_ns
    try:
        label.touch()
        with caplog.at_level(logging.INFO):
            index_run(run, killed)
    finally:
        shutil.os.utime(label, ns=(stamp, stamp))
    assert volumes_told(caplog) == ["bank: volume 1 of 5", "bank: volume 5 of 5"]


def test_a_changed_slice_of_a_series_is_another_stamp(tmp_path):
    """Of a folder with one series, and of FOLDER/UID."""
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / name).write_bytes(b"12")
    cases = [Case("c", "p", image, None) for image in (tmp_path, tmp_path / "1.2.3")]
    before = [case_stamp(case) for case in cases]
    assert [case_stamp(case) for case in cases] == before
    (tmp_path / "2.dcm").write_bytes(b"123")
    assert not set(map(case_stamp, cases)) & set(before)


def test_add_puts_a_datalist_beside_the_bank(run, study, own_bank, tmp_path, caplog, capsys):
    """The validation patient beside the training ones; nothing of these is read again."""
    before = Bank.open(own_bank)
    with caplog.at_level(logging.INFO):
        assert main(["index", str(run), "--output", str(own_bank), "--add", str(study), "--section", "validation"]) == 0
    assert capsys.readouterr().out == f"bank: {own_bank}, 36 slices of 5 patients\n"
    assert volumes_told(caplog) == ["bank: volume 1 of 1"]
    grown = Bank.open(own_bank)
    assert np.array_equal(grown.descriptors[:30], before.descriptors)
    assert np.array_equal(grown.labels[np.arange(30)], before.labels)
    assert grown.own_patients("patient-emil", None) == set(grown.patients[30:])
    segment_with_run(run, [study], tmp_path / "out", bank=own_bank)


def test_add_refuses_a_case_that_is_there_and_data_of_other_organs(run, study, own_bank, tmp_path):
    files = files_below(own_bank)
    moved = []
    for case in load_datalist(study).section("training"):
        moved.append(replace(case, label=Path(shutil.copy(case.label, tmp_path))))
        shutil.os.utime(moved[-1].label, ns=(0, 0))
    write_datalist(tmp_path / "moved.json", load_datalist(study).card, {"training": moved})
    with pytest.raises(InputError, match=r"case-tr0: is in bank bank already, made of other files; leave it out, or"):
        index_run(run, own_bank, add=tmp_path / "moved.json")
    cases = load_datalist(study).section("validation")
    write_datalist(tmp_path / "other.json", "btcv", {"training": list(cases)})
    with pytest.raises(
        InputError, match=r"other\.json: card btcv has other labels than the run; take data of its card"
    ):
        index_run(run, own_bank, add=tmp_path / "other.json")
    with pytest.raises(InputError, match=r"bank none: no manifest\.json in it"):
        index_run(run, tmp_path / "none", add=study, section="validation")
    assert files_below(own_bank) == files
    assert not (tmp_path / "none").exists()


def test_a_bank_knows_how_well_it_agrees_with_itself(run, study, own_bank, caplog):
    """Made, it is measured, told and kept; grown and pruned, anew."""
    organs = load_card(load_datalist(study).card).labels
    with caplog.at_level(logging.INFO):
        index_run(run, own_bank)
    made = Bank.open(own_bank).agreement
    assert made.patients == 4
    assert min(made.dice[1:]) > 0.5
    told = [record.getMessage() for record in caplog.records if "finds its labels" in record.getMessage()]
    assert told == [f"bank: the vote of other patients finds its labels with a Dice of {made.in_words(organs)}"]
    index_run(run, own_bank, add=study, section="validation")
    assert Bank.open(own_bank).agreement.patients == 5
    assert main(["index", str(run), "--output", str(own_bank), "--remove", "patient-anna"]) == 0
    assert Bank.open(own_bank).agreement.patients == 4
    assert main(["index", "--output", str(own_bank), "--remove", "patient-bert"]) == 0
    assert Bank.open(own_bank).agreement.patients == 3


def test_a_bank_of_wrong_labels_is_told_and_its_vote_counts_for_nothing(run, study, own_bank, tmp_path, caplog):
    """Labels that lie elsewhere in the body, another place in each patient."""
    cases = []
    for number, case in enumerate(load_datalist(study).section("training")):
        label = nib.load(case.label)
        moved = np.roll(np.asarray(label.dataobj), (3 * number, -4 * number), axis=(0, 1))[:, :, ::-1]
        nib.save(nib.Nifti1Image(moved, label.affine), tmp_path / f"{number}.nii.gz")
        cases.append(replace(case, label=tmp_path / f"{number}.nii.gz"))
    path = tmp_path / "wrong.json"
    write_datalist(path, load_datalist(study).card, {"training": cases})
    with caplog.at_level(logging.INFO):
        index_run(None, tmp_path / "wrong", data=path)
    agreement = Bank.open(tmp_path / "wrong").agreement
    assert min(agreement.trust[1:]) < 0.6
    assert any("its vote counts" in r.getMessage() and r.levelname == "WARNING" for r in caplog.records)


def test_a_patient_whose_labels_are_unlike_all_others_is_told_of(run, study, own_bank, tmp_path, caplog):
    """The validation patient with labels upside down, added to four others; sound it is not."""
    data = load_datalist(study)
    (case,) = data.section("validation")
    label = nib.load(case.label)
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[::-1, ::-1, ::-1], label.affine), tmp_path / "wrong.nii.gz")
    write_datalist(tmp_path / "wrong.json", data.card, {"training": [replace(case, label=tmp_path / "wrong.nii.gz")]})
    shutil.copytree(own_bank, tmp_path / "sound")
    index_run(run, tmp_path / "sound", add=study, section="validation")
    assert Bank.open(tmp_path / "sound").agreement.doubtful == {}
    assert not any("far less" in record.getMessage() for record in caplog.records)
    index_run(run, own_bank, add=tmp_path / "wrong.json")
    bank = Bank.open(own_bank)
    assert set(bank.agreement.doubtful) == bank.own_patients(case.patient, None)
    told = [record.getMessage() for record in caplog.records if "far less" in record.getMessage()]
    assert len(told) == 1
    assert f"{case.case}: others' vote finds" in told[0]
    assert case.patient not in told[0]


def test_remove_takes_a_patient_out_without_naming_anyone(run, own_bank, capsys):
    bank = Bank.open(own_bank)
    index = ["index", str(run), "--output", str(own_bank), "--remove"]
    assert main([*index, "patient-bert", "patient-nobody"]) == 2
    told = capsys.readouterr()
    assert told.err == "ragsam: --remove: patient 2 of 2 is not in bank bank; nothing was removed\n"
    assert main([*index, "patient-anna", "patient-bert"]) == 0
    assert capsys.readouterr() == (f"bank: {own_bank}, 12 slices of 2 patients\n", "")
    left = Bank.open(own_bank)
    assert set(left.patients) == {pseudonym(f"patient-{name}", bank.salt, "p") for name in ("cleo", "dora")}
    assert left.salt == bank.salt


def test_options_that_do_not_go_together_are_refused(run, study, own_bank, capsys):
    for options, line in (
        (["--section", "validation"], "--section: of the datalist to add; name one with --add"),
        (["--add", str(study), "--remove", "patient-anna"], "--remove: not with --add; do one after the other"),
    ):
        assert main(["index", str(run), "--output", str(own_bank), *options]) == 2
        assert capsys.readouterr().err == f"ragsam: {line}\n"


def test_no_name_in_header_file_or_key_is_in_any_file_of_a_bank(run, study, own_bank, killed):
    """Of the bank, of a grown one, and of the draft that a killed writer leaves."""
    index_run(run, own_bank, add=study, section="validation")
    names = [*TRAINING, *TRAINING.values(), "case-va0", "patient-emil", HEADER_NAME, "DOE^JANE", str(study.parent)]
    for folder in (run / "bank", own_bank, killed):
        for name in files_below(folder):
            content = name.encode() + (folder / name).read_bytes()
            assert not [planted for planted in names if planted.encode() in content], name
