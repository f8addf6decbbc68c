"""A whole data set: every fault is named, no sound case is, and the numbers are those worked out by hand."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from faulty_study import FAULTS, SHAPE, SOUND, labels, save, voxels, write_faulty_study

from ragsam.data.cards.load import load_card
from ragsam.data.checks.inspect_case import CaseInspection
from ragsam.data.checks.survey import _spacing_notes, survey, volume_range_ml
from ragsam.data.datalist import Case, Datalist, load_datalist, read_datalist, write_datalist
from ragsam.errors import InputError

CARD = load_card("hippocampus")
DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    return write_faulty_study(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def summary(faulty):
    datalist, faults = read_datalist(faulty)
    return survey(datalist, CARD, faults=faults, jobs=1)


def about(summary, name, kind="faults"):
    return [line for line in summary[kind] if line.startswith((f"{name}:", f"{name} (label):"))]


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_named(summary, name):
    lines = about(summary, name)
    assert len(lines) == 1, lines
    assert FAULTS[name] in lines[0]
    assert "; " in lines[0]


@pytest.mark.parametrize("name", SOUND)
def test_no_sound_case_is_named(summary, name):
    assert [about(summary, name, kind) for kind in ("faults", "warnings", "notes")] == [[], [], []]


def test_no_other_line_is_there(summary):
    assert len(summary["faults"]) == len(FAULTS)
    assert summary["warnings"] == ["two-forms: qform and sform differ; the sform is used"]
    assert summary["notes"] == []
    # The files of the leak, the twin and the same voxels are sound, and the case without a patient is left out.
    assert summary["n_cases_at_fault"] == len(FAULTS) - 4
    assert summary["n_cases"] == len(FAULTS) + len(SOUND)


def test_processes_change_nothing(faulty, summary):
    datalist, faults = read_datalist(faulty)
    done = []
    assert survey(datalist, CARD, faults=faults, jobs=2, done=done.append) == summary
    assert done == list(range(1, summary["n_cases"] + 1))


def test_the_summary_is_plain_json_with_all_that_is_promised(summary):
    again = json.loads(json.dumps(summary, allow_nan=False))
    assert again == summary
    assert list(summary) == [
        "card", "n_cases", "n_patients", "n_cases_at_fault", "sections", "faults", "warnings", "notes", "duplicates",
        "organs", "cases",
    ]  # fmt: skip
    keys = {
        "case": str, "patient": str, "section": str, "faults": int, "shape": list, "spacing_mm": list,
        "orientation": str, "voxel_type": str, "intensity": dict, "organs_ml": dict, "outliers": list,
    }  # fmt: skip
    sound = next(case for case in summary["cases"] if case["case"] == "sound")
    assert {key: type(value) for key, value in sound.items()} == keys
    broken = next(case for case in summary["cases"] if case["case"] == "cut")
    assert [broken[key] for key in ("shape", "spacing_mm", "intensity", "organs_ml")] == [None] * 4
    assert summary["sections"] == {"training": summary["n_cases"] - 3, "test": 3}


def test_a_case_is_measured(summary, faulty):
    """8 and 4 voxels of 0.7 x 0.7 x 5 mm; flipped axes are named."""
    cases = {case["case"]: case for case in summary["cases"]}
    sound = cases["sound"]
    assert sound["organs_ml"] == pytest.approx({"anterior": 0.0196, "posterior": 0.0098})
    assert (sound["shape"], sound["voxel_type"]) == ([12, 11, 10], "int16")
    assert sound["spacing_mm"] == pytest.approx([0.7, 0.7, 5.0])
    assert sound["orientation"] == "RAS"
    assert cases["flipped"]["orientation"] == "LPS"
    assert cases["spacing"]["spacing_mm"] == pytest.approx([0.7, 1.75, 2.0])
    assert cases["partial"]["organs_ml"] == pytest.approx({"anterior": 0.0196})
    assert cases["scaled-label"]["organs_ml"] == pytest.approx(sound["organs_ml"])
    image = voxels(1 + [*FAULTS, *SOUND].index("sound"))
    percentiles = np.percentile(image, (0.5, 5, 50, 95, 99.5)).tolist()
    assert list(sound["intensity"].values()) == pytest.approx([image.min(), *percentiles, image.max()])
    annotated = {organ: counts["annotated"] for organ, counts in summary["organs"].items()}
    assert annotated["anterior"] - annotated["posterior"] == 2  # other-organ and partial


def test_copies_are_listed_with_how_alike_they_are(summary):
    pairs = {tuple(pair["cases"]): pair["similarity"] for pair in summary["duplicates"]}
    assert pairs["sound", "same"] == 1
    assert 0.995 < pairs["sound", "twin"] < 1
    assert set(pairs) == {("sound", "twin"), ("sound", "same")}  # which join all three


def test_a_copy_under_one_patient_is_a_warning(tmp_path):
    images = [save(tmp_path / f"{name}.nii.gz", voxels(1)) for name in "ab"]
    cases = tuple(Case(name, "p", image) for name, image in zip("ab", images, strict=True))
    found = survey(Datalist("hippocampus", tmp_path / "d.json", {"test": cases}), CARD)
    assert found["faults"] == []
    assert found["warnings"] == ["b: the same voxels as a of the same patient; is one a copy?"]


def inspected(name, *spacing_mm):
    return CaseInspection(name, name, "test", (), spacing_mm=spacing_mm)


def test_voxels_of_another_size_than_the_others_are_noted():
    """Medians 1, 1 and 5: 10 mm are ten times the smallest, and 4 mm four times; the order of axes is nothing."""
    usual = [inspected(f"c{number}", *sizes) for number, sizes in enumerate([(1, 1, 5), (5, 1, 1), (0.8, 0.8, 2.5)])]
    assert _spacing_notes([*usual, inspected("thick", 1, 4, 5), CaseInspection("none", "none", "test", ("f",))]) == []
    assert _spacing_notes([*usual, inspected("cm", 10, 10, 50)]) == [
        "cm: voxels of 10 x 10 x 50 mm, of the others usually 1 x 1 x 5; is the unit right?"
    ]
    assert len(_spacing_notes([*usual, inspected("flat", 1, 1, 0.02)])) == 1
    assert _spacing_notes([usual[0], inspected("cm", 10, 10, 50)]) == []


def test_the_usual_range_by_hand():
    """Logarithms 0, 1 and 2 about 1: median deviation 1, so 3.5 * 1.4826 either way; equal volumes keep 0.05."""
    volumes = [math.e**power for power in (0, 0, 0, 1, 1, 2, 2, 2)]
    low, high = volume_range_ml(volumes)
    assert (math.log(low), math.log(high)) == pytest.approx((1 - 3.5 * 1.4826, 1 + 3.5 * 1.4826))
    assert volume_range_ml([5.0] * 8) == pytest.approx((5 * math.exp(-0.175), 5 * math.exp(0.175)))
    assert volume_range_ml([5.0] * 7) is None


def test_an_organ_unlike_the_others_is_a_note(tmp_path):
    cases = []
    for i in range(9):
        label = labels()
        if i == 4:
            label[0, :, 5:] = 1
        paths = [save(tmp_path / f"{kind}{i}.nii.gz", part) for kind, part in (("i", voxels(i)), ("l", label))]
        cases.append(Case(f"c{i}", f"p{i}", *paths))
    found = survey(Datalist("hippocampus", tmp_path / "d.json", {"training": tuple(cases)}), CARD)
    assert found["faults"] == []
    usual = "the others' usual 0.0165 to 0.0233 ml"
    assert found["notes"] == [f"c4: anterior has 0.154 ml, outside {usual}; check its label"]
    assert [case["outliers"] for case in found["cases"]] == [["anterior"] if i == 4 else [] for i in range(9)]


def test_intensities_outside_the_cards_window_are_a_note(tmp_path):
    image = save(tmp_path / "a.nii.gz", voxels(1) + np.int16(20000))
    datalist = Datalist("btcv", tmp_path / "d.json", {"test": (Case("c", "p", image),)})
    assert "are they Hounsfield units?" in survey(datalist, load_card("btcv"))["notes"][0]


def test_a_label_map_leads_to_the_cards_values(tmp_path):
    """In the file the organs are 7 and 9; 5 is to be background; 1, which the map leaves out, is a fault."""
    label = np.array([0, 7, 9], np.uint8)[labels()]
    label[0, 0, 0] = 5
    shared = {"label_map": {7: 1, 9: 2, 5: 0}}
    case = Case("c", "p", save(tmp_path / "i.nii.gz", voxels(1)), save(tmp_path / "l.nii.gz", label), **shared)
    found = survey(Datalist("hippocampus", tmp_path / "d.json", {"training": (case,)}), CARD)
    assert found["faults"] == []
    assert found["cases"][0]["organs_ml"] == pytest.approx({"anterior": 0.0196, "posterior": 0.0098})
    label[0, 0, 0] = 1
    save(case.label, label)
    found = survey(Datalist("hippocampus", tmp_path / "d.json", {"training": (case,)}), CARD)
    assert found["faults"] == [
        "c: label 1 is not on card hippocampus (0-2) by label_map; set a label_map or choose another card"
    ]


def test_filling_is_told_with_the_count_and_kept_in_the_datalist(tmp_path):
    """Row 1: of a float image; a label with holes stays a fault."""
    image, label = voxels(1).astype(np.float32), labels().astype(np.float32)
    image[0, 0, :2] = np.nan, np.inf
    paths = save(tmp_path / "i.nii.gz", image), save(tmp_path / "l.nii.gz", label)
    written = tmp_path / "d.json"
    write_datalist(written, "hippocampus", {"training": [Case("c", "p", *paths, fill_nonfinite=-5)]})
    found = survey(load_datalist(written), CARD)
    assert (found["faults"], found["warnings"]) == (
        [], ["c: 2 voxels are NaN or infinite; filled with -5"],
    )  # fmt: skip
    assert found["cases"][0]["intensity"]["min"] == -5
    label[0, 0, 0] = np.nan
    save(paths[1], label)
    assert "c (label): 1 voxels are NaN or infinite" in survey(load_datalist(written), CARD)["faults"][0]


@pytest.mark.parametrize("value", ["0", True, [1], "NaN"])
def test_a_filling_that_is_no_number_is_refused(tmp_path, value):
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"card": "hippocampus", "fill_nonfinite": value, "test": []}))
    with pytest.raises(InputError, match=r"fill_nonfinite is .*; it must be a number"):
        load_datalist(path)


def test_organs_beside_the_annotated_ones_are_a_warning(tmp_path):
    paths = save(tmp_path / "i.nii.gz", voxels(1)), save(tmp_path / "l.nii.gz", labels())
    datalist = Datalist("hippocampus", tmp_path / "d.json", {"training": (Case("c", "p", *paths, ("anterior",)),)})
    found = survey(datalist, CARD)
    assert found["warnings"] == ["c: the label holds posterior, which annotated leaves out; they are not used"]


def test_an_error_nobody_thought_of_is_a_fault_of_its_case(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"{i}.nii.gz", voxels(i)) for i in range(2)]
    cases = tuple(Case(f"c{i}", f"p{i}", path) for i, path in enumerate(paths))

    def fail(case, card, *readers):
        if case.case == "c0":
            raise MemoryError

        return examine(case, card, *readers)

    from ragsam.data.checks.inspect_case import examine_case as examine

    monkeypatch.setattr("ragsam.data.checks.inspect_case.examine_case", fail)
    found = survey(Datalist("hippocampus", tmp_path / "d.json", {"test": cases}), CARD)
    assert len(found["faults"]) == 1
    assert found["faults"][0].startswith("c0: the check of this case failed (MemoryError); ")
    assert found["cases"][1]["shape"] == list(SHAPE)


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not in ../shared/data")
def test_real_data_have_no_fault(recwarn):
    """A sample: every sixth hippocampus volume, every fourth head-and-neck CT."""
    with (DATA / "hippocampus" / "subjects.csv").open(encoding="utf-8") as file:
        subjects = {row["case"]: row["inferred_subject"] for row in csv.DictReader(file)}
    sets = [("hippocampus", DATA / "hippocampus", "Tr", 6), ("openkbp_hn", DATA / "openkbp_hn_ct", "", 4)]
    for card, folder, end, step in sets:
        images = sorted((folder / f"images{end}").glob("*.nii.gz"))[::step]
        names = [path.name.removesuffix(".nii.gz") for path in images]
        cases = tuple(
            Case(name, subjects.get(name, name), image, folder / f"labels{end}" / image.name)
            for name, image in zip(names, images, strict=True)
        )
        result = survey(Datalist(card, DATA / "d.json", {"training": cases}), load_card(card))
        assert len(cases) > 10
        assert (result["faults"], result["warnings"], result["duplicates"]) == ([], [], [])
    assert [str(warning.message) for warning in recwarn] == []
