"""A bank learns a case at once, in the place of what it had of it, and forgets it again."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from small_study import TRAINING, affine_of, anatomy, save_volume

from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.inference.bank_growth import forget_patient, learn_case, with_its_organs
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.bank_manifest import read_manifest
from ragsam.runs.run import RunFolder

SLICES = 6
LABELS = load_card("hippocampus").labels


@pytest.fixture
def bank(run, tmp_path):
    """A copy of the run's bank."""
    return shutil.copytree(run / "bank", tmp_path / "bank")


@pytest.fixture
def case(tmp_path):
    """A new labelled case of a patient of its own."""
    image, label = anatomy(50)
    paths = [
        save_volume(tmp_path / f"{name}.nii.gz", array, affine_of())
        for name, array in (("image", image), ("label", label))
    ]
    return Case("scan", "scan", *paths)


def relabelled(case, change):
    label = np.asarray(nib.load(case.label).dataobj).copy()
    change(label)
    return replace(case, label=save_volume(case.label.with_name("other.nii.gz"), label, affine_of()))


def test_a_case_is_learnt_and_forgotten_again(run, bank, case):
    before = Bank.open(bank)
    learn_case(RunFolder(run), bank, case)
    grown = Bank.open(bank)
    assert len(grown) == len(before) + SLICES
    assert grown.patient_count == before.patient_count + 1
    own = grown.own_patients("scan", None)
    assert len(own & set(grown.patients.tolist())) == 1
    assert "scan" not in (bank / "manifest.json").read_text()
    forget_patient(RunFolder(run), bank, "scan")
    left = Bank.open(bank)
    assert left.patients.tolist() == before.patients.tolist()
    assert np.array_equal(left.labels, before.labels)


def test_a_corrected_label_takes_the_place_of_the_first(run, bank, case):
    learn_case(RunFolder(run), bank, case)
    size = len(Bank.open(bank))
    first = read_manifest(bank)
    assert learn_case(RunFolder(run), bank, case)["parts"] == first["parts"]  # the very same once more
    corrected = relabelled(case, lambda label: label.__setitem__(label == 1, 0))
    learn_case(RunFolder(run), bank, with_its_organs(corrected, LABELS))
    learnt = Bank.open(bank)
    assert len(learnt) == size
    own = np.isin(learnt.patients, list(learnt.own_patients("scan", None)))
    assert set(np.unique(learnt.labels[own])) == {0, 2}
    assert learnt.annotated[own].tolist() == [[True, False, True]] * SLICES  # nothing is voted of what was not drawn


def test_a_command_that_is_stopped_leaves_the_first_label_there(run, bank, case, monkeypatch):
    """At its last step, before the bank names the new part; repeated, it succeeds."""
    learn_case(RunFolder(run), bank, case)
    before = Bank.open(bank)
    corrected = with_its_organs(relabelled(case, lambda label: label.__setitem__(label == 1, 0)), LABELS)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ragsam.retrieval.bank_writer.write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            learn_case(RunFolder(run), bank, corrected)
    kept = Bank.open(bank)
    assert kept.patients.tolist() == before.patients.tolist()
    assert np.array_equal(kept.labels, before.labels)
    manifest = learn_case(RunFolder(run), bank, corrected)
    learnt = Bank.open(bank)
    own = np.isin(learnt.patients, list(learnt.own_patients("scan", None)))
    assert own.sum() == SLICES
    assert set(np.unique(learnt.labels[own])) == {0, 2}
    named = {file["name"] for part in manifest["parts"] for file in part["files"].values()}
    assert {path.name for path in bank.iterdir() if path.suffix in (".npy", ".csv")} == named


def test_what_the_bank_has_beside_others_or_of_another_patient_stays(run, bank, case):
    size = len(Bank.open(bank))
    with pytest.raises(InputError, match="of another patient; its labels there stay"):
        learn_case(RunFolder(run), bank, replace(case, case="case-tr2"))
    with pytest.raises(InputError, match="beside other cases of its patient"):
        learn_case(RunFolder(run), bank, replace(case, case="case-tr0", patient=TRAINING["case-tr0"]))
    assert len(Bank.open(bank)) == size


def test_a_faulty_label_replaces_nothing(run, bank, case):
    learn_case(RunFolder(run), bank, case)
    before = read_manifest(bank)
    faulty = relabelled(case, lambda label: label.__setitem__((0, 0, 0), 9))
    with pytest.raises(InputError, match="9"):
        learn_case(RunFolder(run), bank, faulty)
    assert read_manifest(bank) == before
    with pytest.raises(InputError, match="its label has none of anterior, posterior"):
        with_its_organs(relabelled(case, lambda label: label.fill(0)), LABELS)
