"""Dataset cards: the packaged ones, and what is refused."""

import copy
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ragsam.data.cards.listing import card_page, cards_table
from ragsam.data.cards.load import list_cards, load_card, parse_card
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


CODE = {"scheme": "SCT", "value": "1", "meaning": "Lung"}


def changed(**keys):
    content = copy.deepcopy(GOOD)
    for key, value in keys.items():
        content[key] = value
    return content


def organ(**keys):
    return changed(organs=[{**GOOD["organs"][0], **keys}, GOOD["organs"][1]])


def test_packaged_cards_load_under_their_own_names():
    names = ["btcv", "flare22", "flare8", "hippocampus", "openkbp_hn", "phantom", "synapse12", "synapse8"]
    assert list_cards() == names
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


ADRENALS = ["right_adrenal_gland", "left_adrenal_gland"]
SYNAPSE8 = ["spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"]
FLARE22 = ["liver", "right_kidney", "spleen", "pancreas", "aorta", "inferior_vena_cava", *ADRENALS]
FLARE22 += ["gallbladder", "esophagus", "stomach", "duodenum", "left_kidney"]


def test_flare22_has_the_official_order_and_tolerances():
    card = load_card("flare22")
    assert list(card.labels) == FLARE22
    assert [organ.tolerance_mm for organ in card.organs] == [5, 3, 3, 5, 2, 2, 2, 2, 2, 3, 5, 7, 3]
    assert card.protocol == "flare22"
    assert card.label_map is None


def test_synapse8_has_the_order_of_samed_and_the_twelve_test_cases():
    card = load_card("synapse8")
    assert list(card.labels) == SYNAPSE8
    assert [organ.raw for organ in card.organs] == [(1,), (2,), (3,), (4,), (6,), (7,), (8,), (11,)]
    assert card.raw_ignored == (5, 9, 10, 12, 13)
    assert card.split.test.cases == tuple(f"img{n:04d}" for n in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38))
    assert card.protocol == "samed"


def test_flare8_has_the_organs_of_synapse8_by_their_numbers_in_flare22():
    card, flare22 = load_card("flare8"), load_card("flare22")
    assert list(card.labels) == SYNAPSE8
    assert {organ.name: organ.raw for organ in card.organs} == {name: (flare22.labels[name],) for name in SYNAPSE8}
    assert "our reading" in card.notes.lower()


def test_synapse12_merges_both_adrenal_glands_and_says_whose_reading_that_is():
    card = load_card("synapse12")
    assert list(card.labels) == [*list(load_card("btcv").labels)[:11], "adrenal_glands"]
    assert card.organs[-1].raw == (12, 13)
    assert card.label_map == {**{n: n for n in range(1, 13)}, 13: 12}
    assert "our reading" in card.notes.lower()


@pytest.mark.parametrize("name", ["btcv", "synapse8", "synapse12", "flare22", "flare8"])
def test_every_number_of_the_raw_label_files_has_a_place(name):
    card = load_card(name)
    raw = [value for organ in card.organs for value in organ.raw_values]
    assert sorted([*raw, *card.raw_ignored]) == list(range(1, 14))


def test_openkbp_has_seven_organs_in_its_order_and_a_split_of_its_own():
    card = load_card("openkbp_hn")
    organs = ["brainstem", "spinal_cord", "right_parotid", "left_parotid", "esophagus", "larynx", "mandible"]
    assert list(card.labels) == organs
    assert card.left_right == (("left_parotid", "right_parotid"),)
    assert card.patient_rule.column == "source_patient"
    assert card.split.test.values == ("test-pats",)


def test_cards_of_before_may_say_how_many_pieces_an_organ_has():
    assert parse_card(organ(components={"above_ml": 1.5})) == parse_card(GOOD)


@pytest.mark.parametrize("name", list_cards())
def test_every_organ_has_a_code_that_dicom_can_hold(name):
    """Codes of SNOMED CT are those of pydicom's dictionary; `99...` is a scheme of one's own."""
    snomed = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    meanings: dict[str, set[str]] = {}
    for entry in snomed.values():
        for value, (meaning, _) in entry.items():
            meanings.setdefault(value, set()).add(meaning)
    codes = [organ.code for organ in load_card(name).organs]
    codes += [code.modifier for code in codes if code.modifier]
    for code in codes:
        assert code.scheme == "SCT" or code.scheme.startswith("99")
        assert code.scheme != "SCT" or code.meaning in meanings[code.value]


def test_sides_are_told_apart_by_their_codes():
    for card in map(load_card, list_cards()):
        codes = [organ.code for organ in card.organs]
        assert len(set(codes)) == len(codes)


def test_cards_of_one_organ_agree_on_its_colour_and_code():
    known: dict[str, tuple] = {}
    for card in map(load_card, list_cards()):
        for organ in card.organs:
            assert known.setdefault(organ.name, (organ.colour, organ.code)) == (organ.colour, organ.code)


def test_a_label_map_is_only_there_where_numbers_differ():
    assert parse_card(GOOD).label_map is None
    assert parse_card(organ(raw=[1])).label_map is None
    assert parse_card(organ(raw=[5, 4])).label_map == {2: 2, 4: 1, 5: 1}
    assert parse_card(changed(raw_ignored=[9])).label_map == {1: 1, 2: 2, 9: 0}


@given(st.permutations(range(1, 6)), st.integers(0, 3))
def test_a_label_map_leads_every_raw_value_to_its_organ_or_to_background(raw, ignored):
    kept = raw[: len(raw) - ignored]
    entries = [
        {"name": f"o{i}", "value": i, "raw": [value], "colour": [0, 0, 0], "tolerance_mm": 1}
        for i, value in enumerate(kept, 1)
    ]
    card = parse_card(changed(organs=entries, raw_ignored=list(raw[len(kept) :]), left_right=[]))
    label_map = card.label_map or {value: value for value in raw}
    assert label_map == {value: i for i, value in enumerate(kept, 1)} | dict.fromkeys(raw[len(kept) :], 0)


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
        ({key: value for key, value in GOOD.items() if key != "modality"}, "missing modality"),
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
        (changed(left_right=[["left_lung", "liver"]]), "liver, which is not an organ"),
        (changed(left_right=[["left_lung", "left_lung"]]), "twice"),
        (changed(left_right=["left_lung"]), "list of pairs"),
        (changed(patient_rule={"pattern": "a"}), "patient_rule: missing note"),
        (changed(patient_rule={"note": "n"}), "exactly one of pattern, case_is_patient, column"),
        (changed(patient_rule={"note": "n", "column": "c", "case_is_patient": True}), "exactly one of"),
        (changed(patient_rule={"note": "n", "pattern": "a"}), "pattern and files_per_patient belong together"),
        (changed(patient_rule={"note": "n", "column": "c", "files_per_patient": 2}), "belong together"),
        (changed(patient_rule={"note": "n", "case_is_patient": "yes"}), "case_is_patient is 'yes'"),
        (changed(patient_rule={"note": "n", "column": 3}), "column is 3"),
        (changed(patient_rule={"pattern": "(", "files_per_patient": 2, "note": "n"}), "not a regular expression"),
        (changed(patient_rule={"pattern": "a", "files_per_patient": 2, "note": "n"}), "one group"),
        (changed(patient_rule={"pattern": r"a(\d+)", "files_per_patient": 0, "note": "n"}), "above 0"),
        (organ(raw=3), "raw of left_lung is 3; it must be a list of whole numbers above 0"),
        (organ(raw=[]), "raw of left_lung"),
        (organ(raw=[0]), "raw of left_lung"),
        (organ(raw=[True]), "raw of left_lung"),
        (organ(raw=[2]), "raw value 2 is used twice"),
        (organ(raw=[4, 4]), "raw value 4 is used twice"),
        (changed(raw_ignored=[1]), "raw value 1 is used twice"),
        (changed(raw_ignored=1), "raw_ignored is 1"),
        (changed(layouts=["zip"]), "layouts is 'zip'; it must be one of btcv, flare22"),
        (changed(layouts="btcv"), "layouts is 'btcv'; it must be a list"),
        (changed(protocol="mine"), "protocol is 'mine'; it must be one of clinical, btcv, flare22"),
        (changed(notes=" "), "notes is ' '"),
        (organ(code="SCT"), "code of left_lung: str found; it must be a mapping of scheme, value, meaning"),
        (organ(code={"scheme": "SCT", "value": 10200004, "meaning": "Liver"}), 'write it as a text: "10200004"'),
        (organ(code={"scheme": "SCT", "value": "1" * 17, "meaning": "Liver"}), "longer than the 16 letters"),
        (organ(code={"scheme": "SCT", "value": "1"}), "missing meaning"),
        (organ(code={**CODE, "modifier": {**CODE, "modifier": CODE}}), "modifier: unknown key modifier"),
        (changed(split={"test": {"count": 1}}), "split: missing note"),
        (changed(split={"note": "n", "train": {"count": 1}}), "split: unknown key train"),
        (changed(split={"note": "n", "test": 3}), "test: int found; it must be a mapping of count, cases"),
        (changed(split={"note": "n", "test": {}}), "test: it must have exactly one of count, cases, patients, column"),
        (changed(split={"note": "n", "test": {"count": 1, "cases": ["a"]}}), "exactly one of"),
        (changed(split={"note": "n", "test": {"count": -1}}), "count is -1"),
        (changed(split={"note": "n", "test": {"cases": ["a", "a"]}}), "each named once"),
        (changed(split={"note": "n", "test": {"cases": [1]}}), "entry is 1; it must be a text"),
        (changed(split={"note": "n", "test": {"column": "a"}}), "column and values belong together"),
    ],
)
def test_a_wrong_card_is_refused_in_one_line(content, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse_card(content)
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_with_a_card_is_told_at_once():
    organs = [{"name": "a", "value": True}, {"name": "b", "tolerance_mm": 0}]
    wrong = {"name": "n", "windows": 1, "organs": organs, "window": [3, 1], "orientation": "LPS"}
    with pytest.raises(InputError) as caught:
        parse_card(wrong, where="card mine.yaml")
    told = str(caught.value)
    assert told.startswith("card mine.yaml: 5 faults: missing modality; add it; unknown key windows; known are name")
    for fault in (
        "; window [3, 1] does not ascend; write the lower end first",
        "; orientation is 'LPS'",
        "; organ 1: value of a is True; it must be a whole number",
        "; organ 2: tolerance_mm of b is 0; it must be above 0",
    ):
        assert fault in told


def test_only_what_has_no_sensible_default_is_required():
    card = parse_card({"name": "mine", "modality": "MR", "organs": [{"name": "a"}, {"name": "b", "raw": [7]}]})
    assert (card.title, card.window, card.orientation, card.licence) == ("mine", None, "RAS", "not given")
    assert card.labels == {"a": 1, "b": 2}
    assert card.label_map == {1: 1, 7: 2}
    assert card.organs[0].colour != card.organs[1].colour
    assert [organ.tolerance_mm for organ in card.organs] == [3, 3]


def test_unknown_names_and_broken_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such card; choose one of btcv, flare22, flare8, hippocampus"):
        load_card("flare23")
    with pytest.raises(InputError, match="no such file; check the path"):
        load_card(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("organs: [")
    with pytest.raises(InputError, match="not valid YAML") as caught:
        load_card(broken)
    assert "\n" not in str(caught.value)


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    with pytest.raises(InputError, match="not valid YAML"):
        load_card(path)
    assert not (tmp_path / "ran").exists()


# Cards as text


def test_the_list_has_a_line_a_card():
    lines = cards_table([load_card(name) for name in list_cards()]).splitlines()
    assert lines[0].split() == ["card", "modality", "organs", "title"]
    assert lines[1].split()[:4] == ["btcv", "CT", "13", "Beyond"]
    assert [line.split()[0] for line in lines[1:]] == list_cards()


def test_a_card_is_shown_with_all_that_it_says():
    text = card_page(load_card("synapse8"))
    assert "\n8      pancreas      11          #f9d85e  5 mm       SCT 15776009 Pancreas\n" in text
    assert "\n2      right_kidney  2           #b96653  3 mm       SCT 64033007 Kidney, right\n" in text
    said = ["-125 to 275 HU", "left_kidney and right_kidney", "5, 9, 10, 12, 13 (raw values", "2 patients by the seed"]
    said += ["img0001, img0002", "samed", "syn3193805", "Landman B", "--validation 0"]
    for part in said:
        assert part in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", list_cards())
def test_every_card_can_be_shown(name):
    card = load_card(name)
    words = " ".join(card_page(card).split())
    for text in (card.title, card.licence, card.source, card.citation, card.notes or ""):
        assert " ".join(text.split()) in words


def test_a_card_that_says_little_is_shown_too():
    text = card_page(parse_card({key: value for key, value in GOOD.items() if key != "left_right"}))
    assert "left, right   none" in text
    assert "patients      by a table that you give" in text
    assert "split         none of its own" in text
