"""From the Decathlon layout to a datalist split by patient."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsam.data.cards import load_card
from ragsam.data.datalist import Case, load_datalist
from ragsam.data.prepare import prepare, split_by_patient
from ragsam.data.validation import check_case
from ragsam.errors import InputError

HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "hippocampus"


def layout(folder, cases, *, without_label=(), without_image=()):
    for name, left_out in (("imagesTr", without_image), ("labelsTr", without_label)):
        (folder / name).mkdir(parents=True)
        for case in cases:
            if case not in left_out:
                (folder / name / f"{case}.nii.gz").write_bytes(b"")
    return folder


def hippocampi(*numbers):
    return [f"hippocampus_{number:03d}" for number in numbers]


def test_sides_of_one_person_stay_together(tmp_path):
    source = layout(tmp_path / "Task04", hippocampi(*range(1, 13)))
    path = prepare("hippocampus", source, tmp_path / "out" / "list.json", validation=1, test=2)
    sections = load_datalist(path).sections
    assert {name: len(cases) for name, cases in sections.items()} == {"training": 6, "validation": 2, "test": 4}
    for cases in sections.values():
        assert len({case.patient for case in cases}) == len(cases) / 2


def test_the_table_beside_the_data_wins_over_the_rule(tmp_path):
    source = layout(tmp_path / "t", hippocampi(1, 2, 3))
    rows = ["case,inferred_subject", "hippocampus_001,x", "hippocampus_002,y", "hippocampus_003,x"]
    (source / "subjects.csv").write_text("\n".join(rows))
    path = prepare("hippocampus", source, tmp_path / "list.json", validation=0, test=1)
    assert {case.patient for part in load_datalist(path).sections.values() for case in part} == {"x", "y"}


def test_a_table_that_is_named_wins_over_both(tmp_path):
    source = layout(tmp_path / "t", hippocampi(1, 2))
    (source / "subjects.csv").write_text("case,inferred_subject\nhippocampus_001,x\nhippocampus_002,x\n")
    (tmp_path / "mine.csv").write_text("case,patient,age\nhippocampus_001,a,3\nhippocampus_002,b,4\n")
    path = prepare("hippocampus", source, tmp_path / "l.json", validation=0, test=1, subjects=tmp_path / "mine.csv")
    assert {case.patient for part in load_datalist(path).sections.values() for case in part} == {"a", "b"}


def test_without_a_patient_key_it_stops(tmp_path):
    source = layout(tmp_path / "t", ["img0001", "img0002"])
    with pytest.raises(InputError, match="no patient key; give a table with --patients"):
        prepare("btcv", source, tmp_path / "list.json")
    assert not (tmp_path / "list.json").exists()


def test_a_case_without_patient_is_named(tmp_path):
    source = layout(tmp_path / "t", [*hippocampi(1), "other"])
    with pytest.raises(InputError, match=r"^other: no patient in the patient rule"):
        prepare("hippocampus", source, tmp_path / "list.json")
    (tmp_path / "s.csv").write_text("case,patient\nother,1\n")
    with pytest.raises(InputError, match=r"^hippocampus_001: no patient in s\.csv"):
        prepare("hippocampus", source, tmp_path / "list.json", subjects=tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,patient\na,1\n", "columns case and patient not found"),
        ("", "columns case and patient not found"),
        ("case,patient\na,\n", "a line without case or patient"),
        ("case,patient\na\n", "a line without case or patient"),
        ("case,patient\na,1\na,2\n", "a: two patients"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, message):
    source = layout(tmp_path / "t", ["a", "b"])
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        prepare("btcv", source, tmp_path / "list.json", subjects=tmp_path / "s.csv")
    with pytest.raises(InputError, match="cannot be read"):
        prepare("btcv", source, tmp_path / "list.json", subjects=tmp_path / "none.csv")


def test_an_image_without_label_and_the_reverse_are_named(tmp_path):
    source = layout(tmp_path / "t", hippocampi(1, 2, 3), without_label=hippocampi(2), without_image=hippocampi(3))
    with pytest.raises(InputError, match="hippocampus_002: image without label, hippocampus_003: label without image"):
        prepare("hippocampus", source, tmp_path / "list.json")


def test_files_of_macos_and_other_files_are_passed_over(tmp_path):
    source = layout(tmp_path / "t", hippocampi(1, 3, 5))
    (source / "imagesTr" / "._hippocampus_001.nii.gz").write_bytes(b"")
    (source / "imagesTr" / "notes.txt").write_text("")
    (source / "dataset.json").write_text("{}")
    path = prepare("hippocampus", source, tmp_path / "list.json", validation=1, test=1)
    assert sum(len(part) for part in load_datalist(path).sections.values()) == 3


def test_wrong_folders(tmp_path):
    with pytest.raises(InputError, match="no folder imagesTr"):
        prepare("hippocampus", tmp_path, tmp_path / "list.json")
    with pytest.raises(InputError, match=r"no \.nii or"):
        prepare("hippocampus", layout(tmp_path / "t", []), tmp_path / "list.json")
    twice = layout(tmp_path / "u", hippocampi(1))
    (twice / "imagesTr" / "hippocampus_001.nii").write_bytes(b"")
    with pytest.raises(InputError, match=r"hippocampus_001: both \.nii and \.nii\.gz"):
        prepare("hippocampus", twice, tmp_path / "list.json")


def test_too_few_patients(tmp_path):
    source = layout(tmp_path / "t", hippocampi(*range(1, 11)))
    with pytest.raises(InputError, match="30 test and 8 validation patients of 5 leave none for training"):
        prepare("hippocampus", source, tmp_path / "list.json")
    with pytest.raises(InputError, match="must not be negative"):
        prepare("hippocampus", source, tmp_path / "list.json", test=-1)


@given(
    owners=st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=30).filter(lambda x: len(set(x)) >= 4),
    seed=st.integers(0, 1000),
    order=st.randoms(use_true_random=False),
)
def test_a_split_is_by_patient_complete_and_a_function_of_patients_and_seed(owners, seed, order):
    cases = [Case(f"c{i}", owner, Path(f"/{i}.nii")) for i, owner in enumerate(owners)]
    split = split_by_patient(cases, validation=1, test=2, seed=seed)
    patients = {name: {case.patient for case in part} for name, part in split.items()}
    assert (len(patients["validation"]), len(patients["test"])) == (1, 2)
    assert sum(map(len, patients.values())) == len(set(owners))
    assert sorted(case.case for part in split.values() for case in part) == sorted(case.case for case in cases)
    shuffled = list(cases)
    order.shuffle(shuffled)
    again = split_by_patient(shuffled, validation=1, test=2, seed=seed)
    assert {name: {case.patient for case in part} for name, part in again.items()} == patients


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason=f"real data not there: {HIPPOCAMPUS}")
def test_real_hippocampus(tmp_path):
    path = prepare("hippocampus", HIPPOCAMPUS, tmp_path / "hippocampus.json")
    datalist = load_datalist(path)
    patients = {name: len({case.patient for case in part}) for name, part in datalist.sections.items()}
    assert (patients["test"], patients["validation"]) == (30, 8)
    rule = load_card("hippocampus").patient_rule
    assert all(case.patient == rule.patient(case.case) for part in datalist.sections.values() for case in part)
    faults = [fault for case in datalist.section("validation") for fault in check_case(case, load_card("hippocampus"))]
    assert faults == []
    prepare("hippocampus", HIPPOCAMPUS, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
