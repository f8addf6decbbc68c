"""Training in rounds with volumes that nobody has labelled: `ragsam train --unlabelled`."""

from dataclasses import replace

import numpy as np
import pytest
from monai.transforms import Compose
from small_study import QUICK, TRAINING, affine_of, anatomy, flipped, save_volume

from ragsam.api.segment import segment_with_run
from ragsam.api.unlabelled import unlabelled_cases
from ragsam.cli import main
from ragsam.data.cards.load import load_card
from ragsam.data.datalist import Case, load_datalist, write_datalist
from ragsam.data.pseudo_labels import learnt_classes, learnt_entry, pseudo_cases
from ragsam.data.slices import SliceDataset
from ragsam.errors import InputError
from ragsam.evaluation.slice_agreement import slice_agreement
from ragsam.inference.provenance import provenance_rows
from ragsam.io.documents import read_json
from ragsam.networks.checkpoints import load_metadata
from ragsam.retrieval.bank import Bank
from ragsam.runs.run import WEIGHTS
from ragsam.transforms import preprocessing

CARD = load_card("hippocampus")
OPTIONS = [f"--set={name}={value}" for name, value in {**QUICK, "learning_rate": 0.002, "epochs": 3}.items()]


@pytest.fixture(scope="module")
def unlabelled(study, tmp_path_factory):
    """A datalist whose section `unlabelled` has three volumes without labels, one of them of a training patient."""
    folder = tmp_path_factory.mktemp("unlabelled")
    cases = []
    for seed, patient in ((20, "patient-gerd"), (21, "patient-hans"), (22, "patient-anna")):
        image, _ = anatomy(seed)
        path = save_volume(folder / f"scan-{seed}.nii.gz", image, affine_of())
        cases.append(Case(f"scan-{seed}", patient, path))
    write_datalist(folder / "unlabelled.json", "hippocampus", {"unlabelled": cases})
    return folder / "unlabelled.json"


@pytest.fixture(scope="module")
def trained(study, unlabelled, tmp_path_factory):
    """The output of the command, with one round."""
    output = tmp_path_factory.mktemp("rounds") / "out"
    command = ["train", "sam_lora", "--data", str(study), "--output", str(output), *OPTIONS]
    assert main([*command, "--unlabelled", str(unlabelled), "--rounds", "1"]) == 0
    return output


def test_a_round_learns_from_what_the_run_before_labelled(trained):
    record = read_json(trained / "rounds.json")
    assert [entry["run"] for entry in record["rounds"]] == ["round-0", "round-1"]
    pseudo = record["rounds"][1]["pseudo_labels"]
    assert record["rounds"][0]["pseudo_labels"] is None
    assert 0 < pseudo["volumes"] <= 3
    assert 0 < pseudo["slices"] <= 3 * 6
    best = max(record["rounds"], key=lambda entry: entry["validation"])
    assert record["best"] == best["run"]
    for name in ("scan-20", "scan-21", "scan-22"):  # all can be corrected by a person
        assert (trained / "round-1-labels" / "labels" / f"{name}.nii.gz").is_file()


def test_pseudo_labels_are_counted_and_are_in_no_bank(trained, study, tmp_path):
    run = trained / "round-1"
    counts = load_metadata(run / WEIGHTS)["pseudo_labels"]
    assert counts == read_json(trained / "rounds.json")["rounds"][1]["pseudo_labels"]
    in_training = Bank.open(run / "checkpoints" / "bank")
    assert len(in_training) == 6 * len(TRAINING)
    assert main(["index", str(run)]) == 0
    assert len(Bank.open(run / "bank")) == 6 * len(TRAINING)
    segment_with_run(run, [study], tmp_path)
    assert provenance_rows(tmp_path)["pseudo-labels"].startswith(f"{counts['slices']} slices of")
    labelled = read_json(trained / "round-0" / "configs" / "metadata.json")["data_fingerprint"]
    assert read_json(run / "configs" / "metadata.json")["data_fingerprint"] == labelled


def test_a_finished_training_resumed_trains_nothing_again(trained, study, unlabelled, capsys):
    before = (trained / "round-1" / WEIGHTS).stat().st_mtime_ns
    command = ["train", "sam_lora", "--data", str(study), "--output", str(trained), *OPTIONS, "--resume"]
    assert main([*command, "--unlabelled", str(unlabelled), "--rounds", "1"]) == 0
    assert (trained / "round-1" / WEIGHTS).stat().st_mtime_ns == before
    assert "round-0: validation Dice" in capsys.readouterr().out


def test_check_tells_what_the_rounds_take(study, unlabelled, tmp_path, capsys):
    command = ["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "out"), *OPTIONS, "--check"]
    assert main([*command, "--unlabelled", str(unlabelled)]) == 0
    said = capsys.readouterr().out
    assert "unlabelled: 3 volumes of 3 patients; labelling them: at most" in said
    assert "3 rounds at most" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("section", "told"),
    [("validation", "its patient is in validation of"), ("test", "its patient is in test of")],
)
def test_a_patient_who_validates_or_is_tested_is_refused(section, told, study, tmp_path, capsys):
    case = load_datalist(study).section(section)[0]
    image, _ = anatomy(30)
    scan = Case("scan", case.patient, save_volume(tmp_path / "scan.nii.gz", image, affine_of()))
    write_datalist(tmp_path / "more.json", "hippocampus", {"unlabelled": [scan]})
    command = ["train", "sam_lora", "--data", str(study), "--output", str(tmp_path / "out"), *OPTIONS]
    assert main([*command, "--unlabelled", str(tmp_path / "more.json")]) == 2
    assert f"scan: {told} datalist.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    write_datalist(tmp_path / "pseudo.json", "hippocampus", {"pseudo_labelled": [replace(scan, label=scan.image)]})
    with pytest.raises(InputError, match=told):  # a list that was written by hand
        pseudo_cases(tmp_path / "pseudo.json", study, CARD, 2)


def test_a_volume_whose_patient_nothing_tells_is_refused(study, tmp_path):
    image, _ = anatomy(31)
    save_volume(tmp_path / "in" / "scan.nii.gz", image, affine_of())
    with pytest.raises(InputError, match="scan: no patient in the patient rule of card hippocampus"):
        unlabelled_cases([tmp_path / "in"], load_datalist(study))


def test_volumes_of_a_folder_or_a_pattern_have_the_patients_of_its_table(study, tmp_path):
    for name in ("a", "b"):
        save_volume(tmp_path / "in" / f"{name}.nii.gz", anatomy(32)[0], affine_of())
    (tmp_path / "in" / "subjects.csv").write_text("case,patient\na,p1\nb,p2\n")
    data = load_datalist(study)
    by_folder = unlabelled_cases([tmp_path / "in"], data)
    assert [(case.case, case.patient) for case in by_folder] == [("a", "p1"), ("b", "p2")]
    assert unlabelled_cases([str(tmp_path / "in" / "*.nii.gz")], data) == by_folder
    with pytest.raises(InputError, match="no such file, folder or pattern"):
        unlabelled_cases([str(tmp_path / "in" / "*.mha")], data)


@pytest.mark.parametrize("layout", ["ras", "file"])
def test_a_pseudo_labelled_volume_gives_the_slices_that_are_learnt_from(study, tmp_path, layout):
    """The volume is stored from head to feet; its slices are counted from feet to head."""
    image, label = anatomy(33)
    label[..., 1] = 0
    label[0, 0, 1] = 1
    stored, affine = zip(*(flipped(array, affine_of(), (2,)) for array in (image, label)), strict=True)
    paths = [save_volume(tmp_path / f"{i}.nii.gz", array, affine[0]) for i, array in enumerate(stored)]
    entry = {"learnt": {"axis": 2, "slices": {"anterior": [[1, 1]]}}}
    pseudo = Case("scan", "patient-ines", *paths, extra=entry)
    labelled = load_datalist(study).section("training")[:1]
    slices = SliceDataset(
        labelled,
        CARD,
        preprocessing(slice_layout=layout),
        image_size=32,
        augmentation=Compose([]),
        pseudo_labelled=[pseudo],
    )
    (item,) = [item for item in slices if item["case"] == "scan"]
    assert item["annotated"].tolist() == [True, True, False]
    assert (item["label"] == 1).sum() == 1
    assert len(slices) == 7
    assert {item["case"] for item in slices.plain()} == {labelled[0].case}
    assert slices.pseudo_labels == {"volumes": 1, "patients": 1, "slices": 1}


def test_agreement_is_the_dice_of_each_slice():
    """Slice 0: three voxels and one of them shared: 2 * 1 / (3 + 1); slice 1: nobody has the organ."""
    first, second = np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int)
    first[0, 0, 0] = first[0, 1, 0] = first[1, 0, 0] = 1
    second[0, 0, 0] = 1
    assert slice_agreement(first, second, 1, axis=2)[:, 1].tolist() == [0.5, 1.0]
    assert slice_agreement(first, second, 1, axis=0)[:, 1].tolist() == [2 / 3, 0.0]
    with pytest.raises(ValueError, match="label maps of"):
        slice_agreement(first, second[..., :1], 1, axis=2)


def test_slices_that_are_learnt_from_are_written_as_ranges_and_read_back():
    mask = np.zeros((6, 3), bool)
    mask[[1, 2, 4], 1] = True
    entry = learnt_entry(mask, CARD, 2)
    assert entry == {"learnt": {"axis": 2, "slices": {"anterior": [[1, 2], [4, 4]]}}}
    case = Case("a", "p", "a.nii.gz", extra=entry)
    mask[:, 0] = True  # background always is
    assert learnt_classes(case, CARD, 6).tolist() == mask.tolist()
    assert learnt_classes(Case("a", "p", "a.nii.gz"), CARD, 2).all()
    with pytest.raises(
        InputError, match=r"a: learnt: anterior: \[4, 4\] is not the first and last slice of the volume's 4"
    ):
        learnt_classes(case, CARD, 4)
