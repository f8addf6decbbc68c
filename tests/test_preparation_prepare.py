"""From raw folders to a datalist: patients, splits, label maps, annotated organs and folds."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from small_dicom import write_series
from small_study import affine_of, anatomy, save_volume

from ragsam.cli import main
from ragsam.data.cards.load import card_text, load_card
from ragsam.data.checks.check_case import examine_case
from ragsam.data.datalist import load_datalist
from ragsam.data.preparation.csv_table import read_table
from ragsam.data.preparation.prepare import prepare
from ragsam.errors import InputError

HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "hippocampus"
HEAD_AND_NECK = HIPPOCAMPUS.parent / "openkbp_hn_ct"


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


@pytest.mark.parametrize(
    ("patients", "options", "following"),
    [
        (2, [], "ragsam train sam_lora --data LIST --output RUN"),
        (1, [], "ragsam index --data LIST --output BANK; a training needs validation patients too"),
        (2, ["--test", "2"], "ragsam segment RUN LIST --output DIR with a run that was trained on other patients"),
    ],
    ids=["two patients", "one", "all for the test"],
)
def test_what_is_told_to_be_next_can_be_done_with_the_sections(tmp_path, capsys, patients, options, following):
    source = tmp_path / "raw"
    source.mkdir()
    (source / "subjects.csv").write_text("case,patient\n" + "".join(f"c{n},p{n}\n" for n in range(patients)))
    for name in ("images", "labels"):
        (source / name).mkdir()
        for number in range(patients):
            (source / name / f"c{number}.nii.gz").write_bytes(b"")
    output = tmp_path / "list.json"
    assert main(["prepare", "phantom", str(source), "--output", str(output), *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: {following.replace('LIST', str(output))}"


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
        prepare("phantom", source, tmp_path / "list.json")
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
        ("case,patient\na,Doe, Jane\n", r"s\.csv: row 2 has more cells than the first"),
        ("case,patient,patient\na,1,2\n", r"s\.csv: column patient is named twice"),
        ("case,patient\na,\xfc\n".encode("latin-1"), r"s\.csv: the table is neither UTF-8 nor UTF-16"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, message):
    source = layout(tmp_path / "t", ["a", "b"])
    (tmp_path / "s.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        prepare("phantom", source, tmp_path / "list.json", subjects=tmp_path / "s.csv")
    with pytest.raises(InputError, match=r"none\.csv"):
        prepare("phantom", source, tmp_path / "list.json", subjects=tmp_path / "none.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_any_spreadsheet_are_read(tmp_path, encoding, delimiter):
    """A comma within quotes, a decimal comma and a decomposed accent change nothing."""
    rows = [["case", " patient ", "kg"], ["e\u0301", '"Doe; Jane"', '"61,5"'], ["", "", ""], ["b", "ü"]]
    (tmp_path / "t.csv").write_bytes("\r\n".join(map(delimiter.join, rows)).encode(encoding))
    columns, lines = read_table(tmp_path / "t.csv")
    assert columns == ["case", "patient", "kg"]
    assert lines == [
        {"case": "\u00e9", "patient": "Doe; Jane", "kg": "61,5"},
        {"case": "b", "patient": "ü", "kg": ""},
    ]


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
    with pytest.raises(InputError, match=r"no volumes \(\.nii\.gz"):
        prepare("hippocampus", layout(tmp_path / "t", []), tmp_path / "list.json")
    twice = layout(tmp_path / "u", hippocampi(1))
    (twice / "imagesTr" / "hippocampus_001.nii").write_bytes(b"")
    with pytest.raises(InputError, match="hippocampus_001: two volumes of that name in imagesTr"):
        prepare("hippocampus", twice, tmp_path / "list.json")


def test_too_few_patients(tmp_path):
    source = layout(tmp_path / "t", hippocampi(*range(1, 11)))
    with pytest.raises(InputError, match="30 test and 8 validation patients of 5 leave none for training"):
        prepare("hippocampus", source, tmp_path / "list.json")
    with pytest.raises(InputError, match="must not be negative"):
        prepare("hippocampus", source, tmp_path / "list.json", test=-1)


def test_the_split_of_a_seed_stays_what_it_was(tmp_path):
    """Figures that were published before name these patients."""
    source = layout(tmp_path / "t", hippocampi(*range(1, 81)))
    data = load_datalist(prepare("hippocampus", source, tmp_path / "list.json"))
    patients = {name: sorted({case.patient for case in part}) for name, part in data.sections.items()}
    assert patients["training"] == ["subj_016", "subj_032"]
    assert patients["validation"] == [f"subj_{n:03d}" for n in (6, 8, 13, 14, 15, 30, 34, 40)]
    assert len(patients["test"]) == 30


# Label maps and annotated organs


def btcv_layout(folder, numbers=(*range(1, 11), *range(21, 41))):
    for kind in ("img", "label"):
        (folder / kind).mkdir(parents=True)
        for number in numbers:
            (folder / kind / f"{kind}{number:04d}.nii.gz").write_bytes(b"")
    return folder


def test_a_derived_card_writes_its_label_map_and_its_official_test_cases(tmp_path):
    path = prepare("synapse8", btcv_layout(tmp_path / "raw"), tmp_path / "list.json")
    content = json.loads(path.read_text())
    assert content["label_map"] == {
        "1": 1, "2": 2, "3": 3, "4": 4, "5": 0, "6": 5, "7": 6, "8": 7, "9": 0, "10": 0, "11": 8, "12": 0, "13": 0,
    }  # fmt: skip
    assert [case["case"] for case in content["test"]][-2:] == ["img0036", "img0038"]
    paths = {"image": "raw/img/img0001.nii.gz", "label": "raw/label/label0001.nii.gz"}
    assert content["test"][0] == {"case": "img0001", "patient": "img0001", **paths}
    assert load_datalist(path).section("training")[0].label_map == load_card("synapse8").label_map


def test_a_card_with_the_files_own_numbers_writes_none(tmp_path):
    content = json.loads(prepare("btcv", btcv_layout(tmp_path / "raw"), tmp_path / "list.json").read_text())
    assert "label_map" not in content
    assert sum(len(content[name]) for name in ("training", "validation", "test")) == 30


ORGANS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")


def manifest_layout(folder, volumes_ml):
    """Write a head-and-neck set with the given volumes of its cases."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for case in volumes_ml:
            (folder / kind / f"{case}.nii.gz").write_bytes(b"")
    lines = ["case,source_patient,source_split," + ",".join(f"{organ}_ml" for organ in ORGANS)]
    for n, (case, row) in enumerate(volumes_ml.items()):
        lines.append(f"{case},pt_{n},{'validation-pats' if n == 0 else 'train-pats'}," + ",".join(map(str, row)))
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


def test_an_organ_of_0_ml_is_not_annotated(tmp_path):
    source = manifest_layout(tmp_path / "raw", {"a": [1, 2, 3, 4, 5, 0.0, 7], "b": [1.5] * 7, "c": [0] * 6 + [1e-3]})
    data = load_datalist(prepare("openkbp_hn", source, tmp_path / "list.json"))
    (a,), (b, c) = data.section("validation"), data.section("training")
    assert a.annotated == ("brainstem", "spinal_cord", "right_parotid", "left_parotid", "esophagus", "mandible")
    assert b.annotated is None
    assert c.annotated == ("mandible",)
    assert [case.patient for case in (a, b, c)] == ["pt_0", "pt_1", "pt_2"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a,pt_0", "z,pt_0", r"^a: not in manifest\.csv; mend"),
        ("b,pt_1", "a,pt_1", r"^manifest\.csv: a is named twice"),
        ("\nb,pt_1", "\n,pt_1", r"^manifest\.csv: a line without case"),
        ("Larynx_ml", "larynx", r"^manifest\.csv: no column larynx_ml; add it"),
        (",1.5", ",-1", r"^b: brainstem_ml is '-1'; it must be a volume"),
        (",1.5", ",nan", r"^b: brainstem_ml is 'nan'"),
        (",1.5", ",", r"^b: brainstem_ml is ''"),
        ("source_patient", "person", r"^card openkbp_hn: patients come from column source_patient of manifest\.csv"),
        ("case,", "name,", r"^raw: has layout plain, card openkbp_hn expects manifest"),
        ("pt_1", "", r"^b: no patient in manifest\.csv"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path, old, new, message):
    source = manifest_layout(tmp_path / "raw", {"a": [1] * 7, "b": [1.5] * 7, "c": [2] * 7})
    text = (source / "manifest.csv").read_text()
    assert old in text
    (source / "manifest.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        prepare("openkbp_hn", source, tmp_path / "list.json")
    assert not (tmp_path / "list.json").exists()


def test_a_manifest_row_without_volumes_is_named(tmp_path):
    source = manifest_layout(tmp_path / "raw", {"a": [1] * 7, "b": [1] * 7})
    for kind in ("images", "labels"):
        (source / kind / "b.nii.gz").unlink()
    with pytest.raises(InputError, match=r"^b: in manifest\.csv, but without volumes"):
        prepare("openkbp_hn", source, tmp_path / "list.json")


# Folds


def test_every_patient_is_for_validation_in_one_fold(tmp_path):
    source = manifest_layout(tmp_path / "raw", {f"c{n}": [1] * 6 + [n % 3] for n in range(12)})
    validated, numbers = [], []
    for fold in range(4):
        path = prepare("openkbp_hn", source, tmp_path / "list.json", folds=4, fold=fold, seed=5)
        sections = load_datalist(path).sections
        validated += [case.patient for case in sections["validation"]]
        assert {case.extra["fold"] for case in sections["validation"]} == {fold}
        assert not sections["test"]
        assert sum(case.annotated is not None for case in sections["validation"]) == 1  # 4 of the 12 lack the mandible
        numbers.append({case.case: case.extra["fold"] for part in sections.values() for case in part})
    assert sorted(validated) == sorted(f"pt_{n}" for n in range(12))
    assert all(other == numbers[0] for other in numbers)


def test_folds_leave_the_test_patients_out_and_keep_sides_together(tmp_path):
    """Organs come from the label files: only every third person has the posterior part."""
    for number in range(1, 19):
        for kind, array in zip(("imagesTr", "labelsTr"), anatomy(number), strict=True):
            values = array if kind == "imagesTr" or (number + 1) // 2 % 3 == 0 else np.minimum(array, 1)
            save_volume(tmp_path / "raw" / kind / f"hippocampus_{number:03d}.nii.gz", values, affine_of())
    path = prepare("hippocampus", tmp_path / "raw", tmp_path / "list.json", test=0, folds=3)
    sections = load_datalist(path).sections
    assert {name: len(part) for name, part in sections.items()} == {"training": 12, "validation": 6, "test": 0}
    posterior = [case for case in sections["validation"] if int(case.patient[-3:]) % 3 == 0]
    assert len(posterior) == 2
    assert len({case.patient for case in posterior}) == 1
    path = prepare("hippocampus", tmp_path / "raw", tmp_path / "list.json", test=3, folds=3)
    test = load_datalist(path).section("test")
    assert len({case.patient for case in test}) == 3
    assert all("fold" not in case.extra for case in test)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"folds": 3, "fold": 3}, "--fold 3: folds are counted from 0; take a number below 3"),
        ({"folds": 3, "fold": -1}, "--fold -1: folds are counted from 0"),
        ({"fold": 1}, "--fold 1: of how many"),
        ({"folds": 3, "validation": 2}, "--validation: with --folds one fold is for validation"),
        ({"folds": 31}, "--folds: 31 asked for 30 patients"),
    ],
)
def test_folds_that_cannot_be(tmp_path, how, message):
    rows = {f"c{n}": [1] * 7 for n in range(30)}
    with pytest.raises(InputError, match=message):
        prepare("openkbp_hn", manifest_layout(tmp_path / "raw", rows), tmp_path / "list.json", **how)


# A card and a data set of one's own


def test_ones_own_card_folder_and_table(tmp_path):
    """Volumes of other kinds, a DICOM folder among them; labels as the owner numbers them."""
    card = yaml.safe_load(card_text("hippocampus"))
    for key in ("patient_rule", "split", "layouts"):
        del card[key]
    card["organs"][0]["raw"], card["organs"][1]["raw"], card["raw_ignored"] = [10], [20, 21], [7]
    (tmp_path / "meine Karte.yaml").write_text(yaml.safe_dump(card))
    source = tmp_path / "raw"
    for name in ("images/a.mha", "images/b.nrrd", "images/d.nii", "labels/a.nii.gz", "labels/b.nrrd", "labels/c.nii"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"")
    (source / "labels" / "d.nii.gz").write_bytes(b"")
    write_series(source / "images" / "c", np.zeros((3, 3, 2), np.int16), series="1.2.3")
    (tmp_path / "who.csv").write_text("case,patient\na,1\nb,2\nc,3\nd,2\n")
    how = {"subjects": tmp_path / "who.csv", "validation": 0, "test": 1}
    content = json.loads(prepare(str(tmp_path / "meine Karte.yaml"), source, tmp_path / "l.json", **how).read_text())
    assert content["card"] == "meine Karte.yaml"
    assert content["label_map"] == {"7": 0, "10": 1, "20": 2, "21": 2}
    images = {case["case"]: case["image"] for name in ("training", "test") for case in content[name]}
    assert images == {"a": "raw/images/a.mha", "b": "raw/images/b.nrrd", "c": "raw/images/c", "d": "raw/images/d.nii"}
    assert load_datalist(tmp_path / "l.json").card == str(tmp_path / "meine Karte.yaml")
    write_series(source / "images" / "c" / "more", np.zeros((3, 3, 2), np.int16), series="1.2.4")
    with pytest.raises(InputError, match=r"^c: 2 DICOM series in the folder: 1\.2\.3 .*name one by --series"):
        prepare(str(tmp_path / "meine Karte.yaml"), source, tmp_path / "l.json", **how)
    with pytest.raises(InputError, match=r"--series 1\.5: no folder among the images holds it"):
        prepare(str(tmp_path / "meine Karte.yaml"), source, tmp_path / "l.json", **how, series=["1.2.4", "1.5"])
    path = prepare(str(tmp_path / "meine Karte.yaml"), source, tmp_path / "l.json", **how, series=["1.2.4"])
    images = {case.image for part in load_datalist(path).sections.values() for case in part}
    assert source / "images" / "c" / "1.2.4" in images


# Real data


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason=f"real data not there: {HIPPOCAMPUS}")
def test_real_hippocampus(tmp_path):
    path = prepare("hippocampus", HIPPOCAMPUS, tmp_path / "hippocampus.json")
    datalist = load_datalist(path)
    patients = {name: len({case.patient for case in part}) for name, part in datalist.sections.items()}
    assert (patients["test"], patients["validation"]) == (30, 8)
    rule = load_card("hippocampus").patient_rule
    assert all(case.patient == rule.patient(case.case) for part in datalist.sections.values() for case in part)
    assert sorted({case.patient for case in datalist.section("validation")}) == [
        f"subj_{n:03d}" for n in (19, 33, 37, 52, 54, 144, 170, 178)
    ]
    faults = [
        fault
        for case in datalist.section("validation")
        for fault in examine_case(case, load_card("hippocampus")).faults
    ]
    assert faults == []
    prepare("hippocampus", HIPPOCAMPUS, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.skipif(not HEAD_AND_NECK.is_dir(), reason=f"real data not there: {HEAD_AND_NECK}")
def test_real_head_and_neck(tmp_path):
    """The volumes of the manifest agree with the labels: no organ is both annotated and absent, or the reverse."""
    card, path = load_card("openkbp_hn"), tmp_path / "list.json"
    data = load_datalist(prepare("openkbp_hn", HEAD_AND_NECK, path))
    cases = [case for part in data.sections.values() for case in part]
    assert len({case.patient for case in cases}) == len(cases) == 54
    assert {name: len(part) for name, part in data.sections.items()} == {"training": 46, "validation": 8, "test": 0}
    for case in cases[::9]:
        assert examine_case(case, card).faults == ()
        there = set(np.unique(nib.load(case.label).dataobj)) - {0}
        assert there == {card.labels[organ] for organ in case.annotated or card.labels}
    folds = [load_datalist(prepare("openkbp_hn", HEAD_AND_NECK, path, folds=5, fold=i)).sections for i in range(5)]
    for organ in card.labels:
        having = [sum(case.annotated is None or organ in case.annotated for case in f["validation"]) for f in folds]
        assert max(having) - min(having) <= 2
