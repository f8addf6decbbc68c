"""The support bank: what is kept, what is hidden, and what a damaged or killed one does."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ragsam.errors import InputError
from ragsam.retrieval import Bank

FIT = {"card": "btcv", "labels": ["liver"], "image_size": 8, "window": [-125.0, 275.0], "descriptor": "thumbnail"}
PATIENTS = {"Doe^Jane-1960": ["scan-Doe-a", "scan-Doe-b"], "Zebra-0042": ["scan-Zebra"]}


def batches(seed=0, patients=PATIENTS):
    """A batch a case, of three slices each."""
    draw = np.random.default_rng(seed)
    for patient, cases in patients.items():
        for case in cases:
            vectors = draw.normal(size=(3, 6)).astype(np.float32)
            yield {
                "descriptor": vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
                "label": draw.integers(0, 2, (3, 8, 8)).astype(np.uint8),
                "patient": [patient] * 3,
                "case": [case] * 3,
                "slice": [0, 1, 2],
            }


@pytest.fixture
def bank():
    return Bank.collect(batches(), FIT)


@pytest.fixture
def folder(tmp_path, bank):
    bank.save(tmp_path / "bank")
    return tmp_path / "bank"


def equal(a, b):
    arrays = ("descriptors", "labels", "patients", "cases", "slices")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays) and (a.fit, a.salt) == (b.fit, b.salt)


def names(folder):
    return sorted(path.name.split("-")[0] for path in folder.iterdir())


def test_slices_stand_in_the_order_in_which_they_came(bank):
    given = list(batches())
    np.testing.assert_array_equal(bank.descriptors, np.concatenate([batch["descriptor"] for batch in given]))
    np.testing.assert_array_equal(bank.labels, np.concatenate([batch["label"] for batch in given]))
    assert bank.slices.tolist() == [0, 1, 2] * 3
    assert len(bank) == 9
    assert bank.descriptors.dtype == np.float32
    assert bank.labels.dtype == np.uint8


def test_patients_and_cases_are_told_apart_by_pseudonyms(bank):
    assert len(set(bank.patients[:6])) == 1
    assert bank.patients[6] not in bank.patients[:6]
    assert len(set(bank.cases)) == 3
    assert all(name[0] == "p" and len(name) == 11 for name in bank.patients)
    assert all(name[0] == "c" and len(name) == 11 for name in bank.cases)


def test_two_banks_have_two_salts(bank):
    assert not set(Bank.collect(batches(), FIT).patients) & set(bank.patients)


def test_a_patient_is_found_by_its_key_and_by_a_case_of_that_name(bank):
    first, second = str(bank.patients[0]), str(bank.patients[6])
    assert bank.own_patients("Zebra-0042", None) & set(bank.patients) == {second}
    assert bank.own_patients(None, "scan-Doe-b") == {first}
    assert bank.own_patients("Zebra-0042", "scan-Doe-a") & set(bank.patients) == {first, second}
    assert not bank.own_patients("somebody else", "another scan") & set(bank.patients)
    assert bank.own_patients(None, None) == set()


def test_a_patient_named_as_a_case_is_not_that_case(bank):
    assert not bank.own_patients("scan-Zebra", None) & set(bank.patients)


def test_saved_and_opened_is_the_same(folder, bank):
    opened = Bank.open(folder, FIT)
    assert equal(opened, bank)
    assert isinstance(opened.labels, np.memmap)
    assert opened.own_patients("Zebra-0042", None) == bank.own_patients("Zebra-0042", None)


def test_the_folder_holds_four_files_and_no_draft(folder):
    assert names(folder) == ["descriptors", "labels", "manifest.json", "slices"]


def test_no_key_of_a_patient_or_case_stands_anywhere(folder):
    keys = [key for patient, cases in PATIENTS.items() for key in (patient, *cases)]
    for path in folder.iterdir():
        content = path.name.encode() + path.read_bytes()
        for key in keys:
            assert key.encode() not in content, path.name
        assert b"Zebra" not in content
        assert b"Doe" not in content


def test_the_manifest_counts_slices_and_patients(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["slices"], manifest["patients"], manifest["fit"]) == (9, 2, FIT)


def test_an_older_bank_is_replaced_whole(folder):
    older = Bank.open(folder)
    labels = np.array(older.labels)
    newer = Bank.collect(batches(seed=1, patients={"Other": ["x"]}), FIT)
    newer.save(folder)
    assert equal(Bank.open(folder), newer)
    assert names(folder) == ["descriptors", "labels", "manifest.json", "slices"]
    np.testing.assert_array_equal(older.labels, labels)  # an open bank goes on


def test_saving_the_same_bank_twice_changes_nothing(folder, bank):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    bank.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("step", range(7))
def test_a_writer_killed_at_any_step_leaves_the_old_bank(folder, bank, monkeypatch, step):
    """Seven moves make a bank: three drafts, three final names, and the manifest as the last."""
    newer, replace, moves = Bank.collect(batches(seed=1), FIT), os.replace, []

    def killed(source, target):
        if len(moves) == step:
            raise KeyboardInterrupt
        moves.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        newer.save(folder)
    monkeypatch.undo()
    assert equal(Bank.open(folder), bank)
    newer.save(folder)
    assert equal(Bank.open(folder), newer)
    assert names(folder) == ["descriptors", "labels", "manifest.json", "slices"]


@pytest.mark.parametrize("stem", ["descriptors", "labels", "slices", "manifest"])
def test_a_flipped_bit_is_found_wherever_it_is(folder, stem):
    (path,) = folder.glob(f"{stem}*")
    whole = path.read_bytes()
    for position in range(0, len(whole), 1 if stem == "manifest" else 7):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"bank|manifest\.json"):
            Bank.open(folder)
    path.write_bytes(whole)
    Bank.open(folder)


@pytest.mark.parametrize("stem", ["descriptors", "labels", "slices", "manifest"])
def test_a_truncated_or_missing_file_is_found(folder, stem):
    (path,) = folder.glob(f"{stem}*")
    whole = path.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        if stem == "manifest" and length == len(whole) - 1:
            continue  # the last byte is a line end
        with pytest.raises(InputError):
            Bank.open(folder)
    path.unlink()
    with pytest.raises(InputError, match="index"):
        Bank.open(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{}", "3", '{"format": 1}', '{"format": 2}', '{"format": 1, "fit": {}, "files": {}}']
)
def test_a_manifest_that_is_none_is_told(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="bank"):
        Bank.open(folder, FIT)


def test_a_manifest_edited_by_hand_is_found(folder):
    """With another salt the own patient would no longer be known, and leak into its own supports."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["salt"] = "0" * 32
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="damaged"):
        Bank.open(folder)


@pytest.mark.parametrize(
    "other", [{"card": "flare22"}, {"image_size": 16}, {"descriptor": "embedding"}, {"encoder": "abc"}]
)
def test_a_bank_made_for_something_else_is_refused(folder, other):
    with pytest.raises(InputError, match=f"made for another {next(iter(other))} .*ragsam index"):
        Bank.open(folder, {**FIT, **other})


def test_no_bank_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Bank.open(tmp_path / "nowhere")


@pytest.mark.parametrize("patient", ["", None])
def test_a_slice_without_patient_is_refused_by_its_case(patient):
    (*_, batch) = batches()
    batch = {**batch, "patient": ["1", "2", patient], "case": ["a", "b", "bad"]}
    with pytest.raises(InputError, match="bad: no patient"):
        Bank.collect([batch], FIT)


def test_a_bank_of_nothing_is_refused():
    with pytest.raises(InputError, match="no labelled slice"):
        Bank.collect([], FIT)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, bank):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        bank.save(tmp_path / "file" / "bank")
