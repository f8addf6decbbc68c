"""Dataset cards: the packaged ones, and what is refused."""

import copy
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ragsam.data.cards import list_cards, load_card, parse_card
from ragsam.errors import InputError

GOOD = {
    "name": "two",
    "title": "Two organs",
    "modality": "CT",
    "window": [-100, 200],
    "orientation": "RAS",
    "organs": [
        {"name": "left_lung", "value": 1, "colour": [255, 0, 0], "tolerance_mm": 2},
        {"name": "right_lung", "value": 2, "colour": [0, 255, 0], "tolerance_mm": 2.5},
    ],
    "left_right": [["left_lung", "right_lung"]],
    "licence": "CC0",
    "source": "made",
    "citation": "none",
}


def changed(**keys):
    content = copy.deepcopy(GOOD)
    for key, value in keys.items():
        content[key] = value
    return content


def organ(**keys):
    return changed(organs=[{**GOOD["organs"][0], **keys}, GOOD["organs"][1]])


def test_packaged_cards_load_under_their_own_names():
    assert list_cards() == ["btcv", "hippocampus", "phantom"]
    for name in list_cards():
        assert load_card(name).name == name


def test_btcv_has_the_official_order():
    card = load_card("btcv")
    assert card.num_classes == 13
    assert list(card.labels)[:4] == ["spleen", "right_kidney", "left_kidney", "gallbladder"]
    assert card.labels["liver"] == 6
    assert card.labels["left_adrenal_gland"] == 13
    assert card.window == (-125, 275)
    tolerances = {organ.name: organ.tolerance_mm for organ in card.organs}
    assert (tolerances["liver"], tolerances["aorta"], tolerances["pancreas"]) == (5, 2, 5)


def test_the_phantom_has_the_organs_of_btcv():
    assert load_card("phantom").organs == load_card("btcv").organs


def test_hippocampus_scales_by_percentiles_and_has_attribution():
    card = load_card("hippocampus")
    assert card.window is None
    assert card.modality == "MR"
    assert card.licence == "CC BY-SA 4.0"
    assert "Simpson" in card.citation
    assert "nferred" in card.patient_rule.note


@pytest.mark.parametrize(("case", "patient"), [("003", "subj_002"), ("004", "subj_002"), ("005", "subj_003")])
def test_two_files_are_one_patient(case, patient):
    assert load_card("hippocampus").patient_rule.patient(f"hippocampus_{case}") == patient


def test_a_name_that_the_rule_does_not_match_has_no_patient():
    assert load_card("hippocampus").patient_rule.patient("prostate_003") is None


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_rule_joins_exactly_the_odd_file_and_the_even_one_after_it(first, second):
    rule = load_card("hippocampus").patient_rule
    same = rule.patient(f"hippocampus_{first}") == rule.patient(f"hippocampus_{second}")
    assert same == ((first + 1) // 2 == (second + 1) // 2)


def test_a_card_of_ones_own_is_loaded_by_path(tmp_path):
    path = tmp_path / "ünsere Karte.yaml"
    path.write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    card = load_card(path)
    assert card.labels == {"left_lung": 1, "right_lung": 2}
    assert card.left_right == (("left_lung", "right_lung"),)
    assert card.organs[1].tolerance_mm == 2.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a mapping"),
        ([1], "must be a mapping"),
        (changed(windows=[0, 1]), "unknown key windows"),
        ({key: value for key, value in GOOD.items() if key != "licence"}, "missing licence"),
        (changed(modality="PET"), "modality is 'PET'"),
        (changed(orientation="LPS"), "orientation is 'LPS'"),
        (changed(title=""), "title is ''"),
        (changed(window=[200, -100]), "does not ascend"),
        (changed(window=[1, 1]), "does not ascend"),
        (changed(window=[0]), "window is"),
        (changed(window=[0, float("nan")]), "window is"),
        (changed(organs=[]), "at least one organ"),
        (changed(organs=[*GOOD["organs"], GOOD["organs"][0]]), "left_lung is named twice"),
        (organ(value=3), "values are"),
        (organ(value=True), "must be a whole number"),
        (organ(colour=[0, 0]), "colour of left_lung"),
        (organ(colour=[0, 0, 256]), "colour of left_lung"),
        (organ(colour="red"), "colour of left_lung"),
        (organ(tolerance_mm=0), "must be above 0"),
        (organ(tolerance="3"), "unknown key tolerance"),
        (changed(left_right=[["left_lung", "liver"]]), "liver, which is no organ"),
        (changed(left_right=[["left_lung", "left_lung"]]), "twice"),
        (changed(left_right=["left_lung"]), "list of pairs"),
        (changed(patient_rule={"pattern": "a"}), "missing files_per_patient, note"),
        (changed(patient_rule={"pattern": "(", "files_per_patient": 2, "note": "n"}), "no regular expression"),
        (changed(patient_rule={"pattern": "a", "files_per_patient": 2, "note": "n"}), "one group"),
        (changed(patient_rule={"pattern": r"a(\d+)", "files_per_patient": 0, "note": "n"}), "above 0"),
    ],
)
def test_a_wrong_card_is_refused_in_one_line(content, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse_card(content)
    assert "\n" not in str(caught.value)


def test_unknown_names_and_broken_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such card; take one of btcv, hippocampus, phantom"):
        load_card("flare")
    with pytest.raises(InputError, match="cannot be read"):
        load_card(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("organs: [")
    with pytest.raises(InputError, match="not valid yaml") as caught:
        load_card(broken)
    assert "\n" not in str(caught.value)


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    with pytest.raises(InputError, match="not valid yaml"):
        load_card(path)
    assert not (tmp_path / "ran").exists()
