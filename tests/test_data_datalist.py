"""Datalists: paths, round trip, and what is refused (rows 29 and 30 of the faults)."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsam.data.datalist import Case, load_datalist, write_datalist
from ragsam.errors import InputError


def entry(case="a", patient="1", **keys):
    return {"case": case, "patient": patient, "image": f"img/{case}.nii.gz", **keys}


def write(folder, content):
    path = folder / "list.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_paths_are_absolute_and_extra_keys_are_kept(tmp_path):
    listed = entry(label="../lab/a.nii.gz", annotated=["liver"], site=3)
    datalist = load_datalist(write(tmp_path, {"card": "btcv", "name": "mine", "training": [listed]}))
    (case,) = datalist.section("training")
    assert case.image == tmp_path / "img" / "a.nii.gz"
    assert case.label == tmp_path.parent / "lab" / "a.nii.gz"
    assert case.annotated == ("liver",)
    assert case.extra == {"site": 3}
    assert list(datalist.sections) == ["training"]
    hash(case)


def test_label_and_annotated_may_be_left_out(tmp_path):
    (case,) = load_datalist(write(tmp_path, {"card": "btcv", "test": [entry()]})).section("test")
    assert case.label is None
    assert case.annotated is None


def test_a_card_path_is_relative_to_the_datalist(tmp_path):
    datalist = load_datalist(write(tmp_path, {"card": "cards/my.yaml", "test": [entry()]}))
    assert datalist.card == str(tmp_path / "cards" / "my.yaml")


def test_a_missing_or_empty_section_is_refused_with_those_that_there_are(tmp_path):
    datalist = load_datalist(write(tmp_path, {"card": "btcv", "training": [entry()], "validation": []}))
    for name in ("validation", "test"):
        with pytest.raises(InputError, match=f"no cases under '{name}'; sections with cases: training"):
            datalist.section(name)


def test_sections_of_other_names_are_read(tmp_path):
    content = {"card": "btcv", "fold_0": [entry()], "fold_1": [entry("b", "2")]}
    assert [case.case for case in load_datalist(write(tmp_path, content)).section("fold_1")] == ["b"]


def test_the_same_patient_may_have_two_cases_in_one_section(tmp_path):
    content = {"card": "btcv", "training": [entry("a", "1"), entry("b", "1")]}
    assert len(load_datalist(write(tmp_path, content)).section("training")) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "list found"),
        ({"training": [entry()]}, "no card"),
        ({"card": "btcv"}, "no section"),
        ({"card": "btcv", "training": {}}, "must be a list of cases"),
        ({"card": "btcv", "training": ["a.nii"]}, "is not a case"),
        ({"card": "btcv", "training": [{"patient": "1", "image": "a"}]}, "training[0]: case is None"),
        ({"card": "btcv", "training": [{"case": "a", "image": "a"}]}, "a: patient is None"),
        ({"card": "btcv", "training": [entry(patient="")]}, "a: patient is ''"),
        ({"card": "btcv", "training": [entry(patient=7)]}, "a: patient is 7"),
        ({"card": "btcv", "training": [{"case": "a", "patient": "1"}]}, "a: image is None"),
        ({"card": "btcv", "training": [entry(label=3)]}, "a: label is 3"),
        ({"card": "btcv", "training": [entry(annotated="liver")]}, "a: annotated is 'liver'"),
        ({"card": "btcv", "training": [entry(), entry()]}, "a: named twice"),
        ({"card": "btcv", "training": [entry()], "test": [entry("A", "2")]}, "A: named twice"),
        ({"card": "btcv", "test": [entry(), entry("b", "2", image="img/./a.nii.gz")]}, "b: same image as a"),
        ({"card": "btcv", "training": [entry()], "test": [entry("b", "1")]}, "b: in test, but a of the same patient"),
    ],
)
def test_a_wrong_datalist_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_datalist(write(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../a", "a/b", "a\\b", ".hidden", "", " ", "..", "a\nb", "a\0b", "c:a", "x" * 201])
def test_a_case_name_must_be_a_safe_file_name(tmp_path, name):
    with pytest.raises(InputError, match="case"):
        load_datalist(write(tmp_path, {"card": "btcv", "test": [entry(name)]}))
    case = Case(name, "1", tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="case"):
        write_datalist(tmp_path / "out.json", "btcv", {"test": [case]})
    assert not (tmp_path / "out.json").exists()


MAP = {6: 5, 11: 8, 12: 0}


def test_a_label_map_goes_to_every_case_and_survives_the_round_trip(tmp_path):
    content = {
        "card": "btcv",
        "label_map": {"6": 5, "11": 8, "12": 0},
        "training": [entry()],
        "test": [entry("b", "2")],
    }
    sections = load_datalist(write(tmp_path, content)).sections
    assert [case.label_map for part in sections.values() for case in part] == [MAP, MAP]
    write_datalist(tmp_path / "again.json", "btcv", sections)
    assert json.loads((tmp_path / "again.json").read_text())["label_map"] == content["label_map"]
    assert load_datalist(tmp_path / "again.json").sections == sections
    (case,) = sections["test"]
    hash(case)


def test_a_label_map_can_be_given_when_writing(tmp_path):
    case = Case("a", "1", tmp_path / "a.nii")
    write_datalist(tmp_path / "list.json", "btcv", {"test": [case]}, label_map=MAP)
    assert load_datalist(tmp_path / "list.json").section("test")[0].label_map == MAP
    other = Case("b", "2", tmp_path / "b.nii", label_map=MAP)
    with pytest.raises(InputError, match="cases differ in label_map"):
        write_datalist(tmp_path / "list.json", "btcv", {"test": [case, other]})


@pytest.mark.parametrize(
    "label_map", [[1], 3, {"a": 1}, {"0": 0}, {"1.5": 1}, {"01": 1}, {"1": "1"}, {"1": True}, {"1": 256}, {"1": -1}]
)
def test_a_label_map_that_is_none_is_refused(tmp_path, label_map):
    with pytest.raises(InputError, match=r"^list\.json: label_map ") as caught:
        load_datalist(write(tmp_path, {"card": "btcv", "label_map": label_map, "test": [entry()]}))
    assert "\n" not in str(caught.value)


def test_missing_and_invalid_json_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_datalist(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_datalist(tmp_path / "bad.json")


def test_a_leaking_split_is_not_written_and_the_old_file_stays(tmp_path):
    path = tmp_path / "list.json"
    path.write_text("old")
    cases = [Case("a", "1", tmp_path / "a.nii.gz"), Case("b", "1", tmp_path / "b.nii.gz")]
    with pytest.raises(InputError, match="same patient"):
        write_datalist(path, "btcv", {"training": cases[:1], "test": cases[1:]})
    assert path.read_text() == "old"


def test_written_paths_are_relative_so_the_folder_can_be_moved(tmp_path):
    folder = tmp_path / "Daten für alle"
    case = Case("Fall ä", "p 1", folder / "img" / "ä 1.nii.gz", folder / "lab" / "ä 1.nii.gz", ("liver",), {"site": 3})
    write_datalist(folder / "list.json", "btcv", {"training": [case], "test": []})
    assert json.loads((folder / "list.json").read_text("utf-8"))["training"][0]["image"] == "img/ä 1.nii.gz"
    moved = folder.rename(tmp_path / "moved")
    (back,) = load_datalist(moved / "list.json").section("training")
    assert back.image == moved / "img" / "ä 1.nii.gz"
    assert (back.case, back.patient, back.annotated, back.extra) == ("Fall ä", "p 1", ("liver",), {"site": 3})


def test_a_card_path_survives_the_round_trip(tmp_path):
    path, case = tmp_path / "a" / "list.json", Case("a", "1", tmp_path / "a.nii")
    write_datalist(path, str(tmp_path / "my.yaml"), {"test": [case]})
    assert load_datalist(path).card == str(tmp_path / "my.yaml")


names = st.text(st.characters(categories=["L", "N"], include_characters=" -_<>&."), min_size=1, max_size=20)


@given(st.lists(names.filter(lambda n: n.strip() and n[0] != "."), unique_by=str.casefold, min_size=1, max_size=6))
def test_round_trip(tmp_path_factory, chosen):
    folder = tmp_path_factory.mktemp("trip")
    cases = [Case(name, f"p{i}", folder / f"{i}.nii.gz", Path(f"/else/{i}.nii")) for i, name in enumerate(chosen)]
    sections = {"training": cases[::2], "test": cases[1::2]}
    write_datalist(folder / "list.json", "btcv", sections)
    back = load_datalist(folder / "list.json")
    assert {name: list(part) for name, part in back.sections.items()} == sections
