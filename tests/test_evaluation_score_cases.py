"""metrics.json from files: every status, every fault, and the numbers worked out by hand."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from small_dicom import write_series

from ragsam.data.cards.load import Card, Organ
from ragsam.data.datalist import Case
from ragsam.errors import InputError
from ragsam.evaluation.case_pairs import unmatched_predictions
from ragsam.evaluation.paired_comparison import compare_metrics
from ragsam.evaluation.score_case import evaluated
from ragsam.evaluation.score_cases import CasePair, evaluate_cases, pairs_from_cases, pairs_from_folders
from ragsam.metrics.protocols import ALL_METRICS
from ragsam.report.cases import worst_first
from ragsam.report.markup import escape_latex, escape_markdown
from ragsam.report.tables import COLUMNS, summary_rows, write_metrics_csv, write_metrics_json, write_summary_tables

SHAPE, SPACING = (8, 8, 4), (1.0, 1.0, 5.0)
DIAGONAL = math.sqrt(8**2 + 8**2 + 20**2)
CARD = Card(
    name="tiny", title="Tiny", modality="CT",
    organs=(Organ("liver", 1, (200, 80, 60), 1.0), Organ("spleen", 2, (60, 80, 200), 1.0)),
    window=(-160.0, 240.0), orientation="RAS", left_right=(), licence="none", source="made", citation="none",
)  # fmt: skip


def _labels(*, liver=True, spleen=True, shift=0):
    """A liver of 2 x 2 x 1 voxels (0.02 ml) and a spleen of 1 x 1 x 2 (0.01 ml), moved along x by `shift`."""
    labels = np.zeros(SHAPE, np.uint8)
    if liver:
        labels[1 + shift : 3 + shift, 1:3, 1] = 1
    if spleen:
        labels[1 + shift, 5, 1:3] = 2
    return labels


def _save(path, labels, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.diag([*SPACING, 1.0]) if affine is None else affine), path)
    return path


@pytest.fixture
def pair(tmp_path):
    def make(reference, prediction, case="c1", patient="p1", **options):
        return CasePair(
            case,
            patient,
            _save(tmp_path / "reference" / f"{case}.nii.gz", reference),
            None if prediction is None else _save(tmp_path / "prediction" / f"{case}.nii.gz", prediction),
            **options,
        )

    return make


def test_a_shift_by_one_voxel_by_hand(pair):
    """Liver: 2 of 4 voxels shared, Dice 1/2, IoU 1/3; half of its surface 0 and half 1 mm off. Spleen: none, 1 mm."""
    found = evaluate_cases([pair(_labels(), _labels(shift=1))], CARD)
    liver, spleen = (found["cases"][0]["organs"][name] for name in ("liver", "spleen"))
    assert liver == {
        "status": "ok", "dice": 0.5, "iou": pytest.approx(1 / 3), "nsd": 1.0, "hd95_mm": 1.0, "hd95_pooled_mm": 1.0,
        "hd95_area_mm": 1.0, "hd_mm": 1.0, "assd_mm": 0.5, "volume_reference_ml": pytest.approx(0.02),
        "volume_prediction_ml": pytest.approx(0.02), "volume_difference_ml": 0.0,
    }  # fmt: skip
    assert (spleen["dice"], spleen["nsd"], spleen["hd_mm"], spleen["assd_mm"]) == (0.0, 1.0, 1.0, 1.0)
    assert found["summary"]["mean"]["dice"]["mean"] == 0.25
    assert found["faults"] == []
    assert (found["protocol"], found["card"], found["n_cases"], found["n_patients"]) == ("clinical", "tiny", 1, 1)


def test_flare22_measures_by_the_headers_voxel_sizes(tmp_path):
    """A liver 1 voxel off along x: 1 mm by the affine, 6 mm by the voxel sizes, beyond FLARE22's 5 mm."""
    paths = []
    for shift in (0, 1):
        image = nib.Nifti1Image(_labels(shift=shift), np.diag([*SPACING, 1.0]))
        image.set_sform(image.affine, code=1)
        image.set_qform(None, code=0)
        image.header.set_zooms((6.0, 1.0, 5.0))
        paths.append(tmp_path / f"{shift}.nii.gz")
        nib.save(image, paths[-1])
    case = CasePair("c1", "p1", *paths)
    nsd = {p: evaluate_cases([case], CARD, protocol=p)["cases"][0]["organs"]["liver"]["nsd"] for p in
           ("clinical", "flare22-2022", "flare22-2024")}  # fmt: skip
    assert nsd["clinical"] == 1.0
    assert nsd["flare22-2022"] == nsd["flare22-2024"] < 1.0


@pytest.mark.parametrize(
    ("reference", "prediction", "status"),
    [
        ({}, {"spleen": False}, "missed"),
        ({"spleen": False}, {}, "false_positive"),
        ({"spleen": False}, {"spleen": False}, "absent"),
    ],
)
def test_degenerate_organs(pair, reference, prediction, status):
    """Rows 14 to 16; a second case keeps the organ in some reference, so that the mean exists."""
    pairs = [pair(_labels(**reference), _labels(**prediction)), pair(_labels(), _labels(), "c2", "p2")]
    found = evaluate_cases(pairs, CARD)
    spleen, summary = found["cases"][0]["organs"]["spleen"], found["summary"]["organs"]["spleen"]
    assert spleen["status"] == status
    assert found[status] == {"liver": 0, "spleen": 1}
    if status == "absent":
        assert [spleen[m] for m in ALL_METRICS] == [None] * len(ALL_METRICS)
        assert (summary["dice"]["mean"], summary["dice"]["n"]) == (1.0, 1)
    else:
        assert spleen["dice"] == spleen["iou"] == spleen["nsd"] == 0.0
        assert [spleen[m] for m in ALL_METRICS if m.endswith("_mm")] == [pytest.approx(DIAGONAL)] * 5
        assert summary["hd95_mm"]["mean"] == pytest.approx(DIAGONAL / 2)
        assert (summary["dice"]["mean"], summary["dice"]["n"]) == (0.5, 2)


@pytest.mark.parametrize("suffix", [".nii", ".NII.GZ", ".mha", ".mhd", ".nrrd", ""])
def test_a_prediction_in_any_format_is_read(pair, tmp_path, suffix):
    """The shift by one voxel of above; without suffix it is a folder of DICOM slices."""
    one = pair(_labels(), _labels(shift=1))
    path = one.prediction.with_name(f"c1{suffix}")
    volume = sitk.ReadImage(str(one.prediction))
    one.prediction.unlink()
    if suffix in (".mha", ".mhd", ".nrrd"):
        sitk.WriteImage(volume, str(path))
    elif suffix:
        nib.save(nib.Nifti1Image(_labels(shift=1), np.diag([*SPACING, 1.0])), tmp_path / "x.nii")
        content = (tmp_path / "x.nii").read_bytes()
        path.write_bytes(gzip.compress(content) if suffix == ".NII.GZ" else content)
    else:
        array = _labels(shift=1)[::-1, ::-1].astype(np.uint16)  # left and back first
        write_series(path, array, origin=(-7.0, -7.0, 0.0), spacing_mm=SPACING)
    (found,) = pairs_from_cases([Case("c1", "p1", one.reference, one.reference)], path.parent)
    assert found.prediction == path
    metrics = evaluate_cases([found], CARD)
    assert metrics["cases"][0]["organs"]["liver"]["dice"] == 0.5
    assert metrics["faults"] == []


@pytest.mark.parametrize("axcodes", ["LPS", "ASR", "IPL"])
def test_a_prediction_stored_with_its_axes_in_another_order_is_turned(pair, caplog, axcodes):
    one = pair(_labels(), _labels(shift=1))
    volume = nib.load(one.prediction)
    turn = nib.orientations.ornt_transform(nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(axcodes))
    nib.save(volume.as_reoriented(turn), one.prediction)
    with caplog.at_level("INFO"):
        found = evaluate_cases([one], CARD)
    assert [organ["dice"] for organ in found["cases"][0]["organs"].values()] == [0.5, 0.0]
    assert found["cases"][0]["organs"]["liver"]["hd95_mm"] == 1.0
    assert found["faults"] == []
    assert caplog.text.count("its axes are ordered differently from the reference's") == 1


def test_an_organ_in_no_reference_is_left_out_and_named(pair):
    """Row 17, even with a false positive of it."""
    found = evaluate_cases([pair(_labels(spleen=False), _labels())], CARD)
    assert found["summary"]["organs_left_out"] == ["spleen"]
    assert found["summary"]["organs"]["spleen"]["dice"]["mean"] is None
    assert found["summary"]["mean"]["dice"]["mean"] == 1.0
    assert found["false_positive"]["spleen"] == 1


def test_an_organ_that_is_not_annotated_has_no_score(pair):
    found = evaluate_cases([pair(_labels(), _labels(spleen=False), annotated=("liver",))], CARD)
    spleen = found["cases"][0]["organs"]["spleen"]
    assert (spleen["status"], spleen["dice"], spleen["hd95_mm"], spleen["volume_reference_ml"]) == (
        "not_annotated", None, None, None,
    )  # fmt: skip
    assert found["summary"]["mean"]["dice"]["mean"] == 1.0


def test_a_missing_prediction_is_listed_and_scored_as_missed(pair):
    """Row 18; the other case goes on."""
    found = evaluate_cases([pair(_labels(), None), pair(_labels(), _labels(), "c2", "p2")], CARD)
    assert [o["status"] for o in found["cases"][0]["organs"].values()] == ["missed", "missed"]
    liver = found["cases"][0]["organs"]["liver"]
    assert liver["volume_prediction_ml"] is liver["volume_difference_ml"] is None
    assert len(found["faults"]) == 1
    assert found["faults"][0].startswith("c1: no prediction")
    assert found["summary"]["mean"]["dice"]["mean"] == 0.5


def test_another_geometry_is_a_fault_not_a_resampling(pair, tmp_path):
    """Row 13 for the prediction."""
    moved = np.diag([*SPACING, 1.0])
    moved[0, 3] = 0.021  # of a voxel of 1 mm; 0.02 is borne
    shifted, cut = pair(_labels(), _labels()), pair(_labels(), _labels()[:, :, :3], "c2", "p2")
    _save(shifted.prediction, _labels(), moved)
    found = evaluate_cases([shifted, cut], CARD)
    assert [c["organs"]["liver"]["status"] for c in found["cases"]] == ["missed", "missed"]
    assert "it is up to 0.021 mm away" in found["faults"][0]
    assert "(8, 8, 3)" in found["faults"][1]
    moved[0, 3] = 0.019
    _save(shifted.prediction, _labels(), moved)
    assert evaluate_cases([shifted], CARD)["faults"] == []


def test_labels_as_floats_near_whole_numbers_are_taken(pair):
    """Row 8."""
    near, far = _labels().astype(np.float32) + 9e-4, _labels().astype(np.float32) + 0.4
    found = evaluate_cases([pair(_labels(), near), pair(_labels(), far, "c2", "p2")], CARD)
    assert found["cases"][0]["organs"]["liver"]["dice"] == 1.0
    assert found["cases"][1]["organs"]["liver"]["status"] == "missed"
    assert found["faults"] == [
        "c2 (prediction): 256 labels are not whole numbers; save them as integers; scored as missed"
    ]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("clinical", {"made up": 0.5, "moved": 0.75, "neither": 1.0}),
        ("flare22", {"made up": 0.5, "moved": 0.75, "neither": 1.0}),
        ("samed", {"neither": 0.5, "moved": 0.75, "made up": 1.0}),
    ],
)
def test_the_worst_case_is_the_protocols(pair, protocol, expected):
    """Liver half and spleen whole; the spleen in neither: none, 1 or 0; a made-up spleen: 0, 0 or 1."""
    without = _labels(spleen=False)
    pairs = [
        pair(_labels(), _labels(spleen=False, shift=1) + _labels(liver=False), "moved"),
        pair(without, without, "neither"),
        pair(without, _labels(), "made up"),
    ]
    metrics = evaluate_cases(pairs, CARD, protocol=protocol)
    assert [(case["case"], dice) for case, dice in worst_first(metrics)] == list(expected.items())
    cases = {"clinical": (3, 2), "flare22": (3, 3), "samed": (3, 3)}[protocol]
    assert tuple(row["dice"]["n_cases"] for row in summary_rows(metrics)) == cases


def test_an_organ_that_is_left_out_of_the_mean_is_left_out_of_a_cases_mean(pair):
    without = _labels(spleen=False)
    metrics = evaluate_cases([pair(without, _labels(), "b"), pair(without, without, "a")], CARD)
    assert metrics["summary"]["organs_left_out"] == ["spleen"]
    assert [(case["case"], dice) for case, dice in worst_first(metrics)] == [("a", 1.0), ("b", 1.0)]


def test_values_that_are_not_on_the_card_are_named_and_left_out(pair):
    """Row 9."""
    labels = _labels()
    labels[7, 7, 0], labels[6, 7, 0] = 14, 3
    found = evaluate_cases([pair(_labels(), labels)], CARD)
    assert "c1 (prediction): label 3, 14 is not on card tiny (0-2)" in found["faults"][0]
    assert found["summary"]["mean"]["dice"]["mean"] == 1.0


def test_a_damaged_reference_leaves_the_case_unscored_and_the_others_go_on(pair):
    """Rows 10 and 11: a cut gzip stream."""
    broken = pair(_labels(), _labels())
    broken.reference.write_bytes(gzip.compress(b"x" * 10_000)[:40])
    found = evaluate_cases([broken, pair(_labels(), _labels(), "c2", "p2")], CARD)
    assert [case["case"] for case in found["cases"]] == ["c2"]
    assert found["unscored"] == ["c1"]
    assert len(found["faults"]) == 1


def test_the_same_files_give_the_same_digits_and_valid_json(pair, tmp_path):
    """Row 35, and the means do not depend on the order of the cases."""
    rng = np.random.default_rng(0)
    pairs = [pair(_labels(), rng.integers(0, 3, SHAPE).astype(np.uint8), f"c{i}", f"p{i % 4}") for i in range(6)]
    first, again = evaluate_cases(pairs, CARD), evaluate_cases(pairs, CARD)
    assert json.dumps(first, allow_nan=False) == json.dumps(again)
    assert evaluate_cases(pairs[::-1], CARD)["summary"] == first["summary"]
    assert (first["n_cases"], first["n_patients"]) == (6, 4)
    assert first["summary"]["organs"]["liver"]["dice"]["n"] == 4
    write_metrics_json(first, tmp_path / "out" / "metrics.json")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == first


def test_no_folder_name_gets_into_the_metrics(pair, tmp_path):
    """Row 31."""
    one = pair(_labels(), _labels())
    one.prediction.write_bytes(b"not a volume")
    assert str(tmp_path) not in json.dumps(evaluate_cases([one, pair(_labels(), None, "c2")], CARD))


def test_progress_is_told_after_each_case(pair):
    seen = []
    evaluate_cases([pair(_labels(), _labels()), pair(_labels(), None, "c2")], CARD, progress=seen.append)
    assert seen == [1, 2]


def _dies_of_c1(pair, **options):
    return os._exit(9) if pair.case == "c1" else evaluated(pair, **options)


def test_processes_give_the_same_digits_and_one_that_dies_is_a_fault(pair, monkeypatch):
    pairs = [pair(_labels(), _labels(shift=i % 3), f"c{i}", f"p{i}") for i in range(5)] + [pair(_labels(), None, "c5")]
    alone = evaluate_cases(pairs, CARD)
    assert evaluate_cases(pairs, CARD, jobs=2) == alone
    monkeypatch.setattr("ragsam.evaluation.score_cases.evaluated", _dies_of_c1)
    found = evaluate_cases(pairs, CARD, jobs=2)
    assert found["unscored"] == ["c1"]
    assert found["faults"][0].startswith("c1: its process died")
    assert found["cases"] == [case for case in alone["cases"] if case["case"] != "c1"]


def test_a_protocol_scores_what_is_its_own_and_says_how(pair):
    """Samed: the spleen is missed once, so Dice 0 and HD95 0 voxels, and absent once, so the same."""
    pairs = [pair(_labels(), _labels(spleen=False)), pair(_labels(spleen=False), _labels(spleen=False), "c2", "p2")]
    found = evaluate_cases(pairs, CARD, protocol="samed")
    assert (found["protocol"], found["metrics"]) == ("samed", ["dice", "hd95_voxels"])
    assert [case["organs"]["spleen"]["status"] for case in found["cases"]] == ["missed", "absent"]
    spleen = found["summary"]["organs"]["spleen"]
    assert (spleen["dice"]["mean"], spleen["dice"]["n"], spleen["hd95_voxels"]["mean"]) == (0.0, 2, 0.0)
    assert (spleen["hd95_mm"]["mean"], spleen["nsd"]["mean"]) == (None, None)
    assert found["summary"]["mean"]["dice"]["mean"] == 0.5
    assert "in voxels, not in mm" in found["protocol_caveat"]
    assert found["protocol_caveat"] in found["protocol_rules"][0]
    assert not [rule for rule in found["protocol_rules"] if "tolerances in mm" in rule]
    clinical = evaluate_cases(pairs, CARD)
    assert clinical["protocol_caveat"] is None
    assert clinical["protocol_rules"][-1] == "NSD tolerances in mm: liver 1, spleen 1."


def test_flare22_counts_an_organ_that_no_reference_has_and_takes_its_own_tolerances(pair):
    found = evaluate_cases([pair(_labels(spleen=False), _labels(spleen=False))], CARD, protocol="flare22")
    assert found["summary"]["organs_left_out"] == []
    assert found["summary"]["organs"]["spleen"]["nsd"]["mean"] == 1.0
    assert found["protocol_rules"][-1] == "NSD tolerances in mm: liver 5, spleen 3."


def test_what_no_case_can_mend_is_refused(pair):
    one = pair(_labels(), _labels())
    for pairs, options, message in [
        ([], {}, "no case"),
        ([one, one], {}, "c1: the case is there twice"),
        ([one], {"protocol": "flare99"}, "no such protocol"),
        ([one], {"protocol": "btcv"}, "btcv is not for card tiny: it needs all of its 13 organs"),
        ([pair(_labels(), _labels(), annotated=("heart",))], {}, "heart is not on card"),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate_cases(pairs, CARD, **options)


def test_folders_are_matched_by_name_whatever_the_suffix(tmp_path):
    """Spaces and letters beyond ASCII included (row 29)."""
    for name in ("Fall ä 1.nii.gz", "b.nii"):
        _save(tmp_path / "réf x" / name, _labels())
    for name in ("Fall ä 1.nii", "extra.nii.gz"):
        _save(tmp_path / "pred" / name, _labels())
    (tmp_path / "pred" / "notes.txt").write_text("no volume")
    pairs = pairs_from_folders(tmp_path / "réf x", tmp_path / "pred")
    assert [(p.case, p.patient, p.prediction and p.prediction.name) for p in pairs] == [
        ("Fall ä 1", None, "Fall ä 1.nii"), ("b", None, None),
    ]  # fmt: skip
    assert unmatched_predictions(tmp_path / "réf x", tmp_path / "pred") == ["extra"]
    found = evaluate_cases(pairs, CARD)
    assert found["patients"] == "one per case: no patient table was given"
    assert [case["patient"] for case in found["cases"]] == ["Fall ä 1", "b"]
    assert (
        pairs_from_folders(tmp_path / "réf x", tmp_path / "pred", patients={"Fall ä 1": "p", "b": "p"})[0].patient
        == "p"
    )


def test_folders_that_cannot_be_matched_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("a.nii", "a.nii.gz"):
        _save(tmp_path / "twice" / name, _labels())
    _save(tmp_path / "one" / "a.nii", _labels())
    for folders, options, message in [
        (("none", "empty"), {}, "no such folder"),
        (("empty", "one"), {}, "no volume"),
        (("twice", "one"), {}, "two volumes of that name in twice; remove one"),
        (("one", "one"), {"patients": {"b": "p"}}, "not in the patient table"),
    ]:
        with pytest.raises(InputError, match=message):
            pairs_from_folders(*(tmp_path / f for f in folders), **options)


def test_cases_of_a_datalist_are_matched_by_case_name(tmp_path):
    label, prediction = _save(tmp_path / "l.nii.gz", _labels()), _save(tmp_path / "pred" / "c1.nii.gz", _labels())
    case = Case("c1", "p1", tmp_path / "i.nii.gz", label, ("liver",), {})
    assert pairs_from_cases([case], tmp_path / "pred") == [
        CasePair("c1", "p1", label, prediction, tmp_path / "i.nii.gz", ("liver",))
    ]
    with pytest.raises(InputError, match="c2: no reference label"):
        pairs_from_cases([Case("c2", "p2", tmp_path / "i.nii.gz", None, None, {})], tmp_path / "pred")


def test_csv_has_a_row_a_case_and_organ_and_empty_cells_for_null(pair, tmp_path):
    pairs = [pair(_labels(), _labels()), pair(_labels(spleen=False), _labels(spleen=False), "c2", "p2")]
    found = evaluate_cases(pairs, CARD)
    write_metrics_csv(found, tmp_path / "metrics.csv")
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["case"], row["organ"]) for row in rows] == [(c, o) for c in ("c1", "c2") for o in ("liver", "spleen")]
    assert (rows[0]["dice"], rows[0]["status"]) == ("1.0", "ok")
    assert (rows[3]["dice"], rows[3]["status"]) == ("", "absent")
    assert (rows[0]["iou"], rows[0]["hd_mm"], rows[0]["volume_difference_ml"]) == ("1.0", "0.0", "0.0")
    summary = {row["organ"]: row for row in summary_rows(found)}
    assert (summary["spleen"]["dice"]["n_cases"], summary["spleen"]["absent"]) == (1, 1)
    write_metrics_csv(evaluate_cases(pairs, CARD, protocol="samed"), tmp_path / "samed.csv")
    table = pd.read_csv(tmp_path / "samed.csv")
    assert table.groupby("organ")["hd95_voxels"].mean().to_dict() == {"liver": 0.0, "spleen": 0.0}
    assert table["hd95_mm"].isna().all()


def test_the_summary_is_written_in_markdown_and_latex_with_names_escaped(pair, tmp_path):
    """Four patients, Dice 1, 1/2, 1/2 and 0 for the liver, whose name holds what either language takes for its own."""
    name = "liver_|_50%_<b>_$x$"
    card = replace(CARD, name="a_b", organs=(replace(CARD.organs[0], name=name), CARD.organs[1]))
    pairs = [pair(_labels(), _labels(shift=i > 0), f"c{i}", f"p{i}") for i in range(3)]
    pairs.append(pair(_labels(), None, "c3", "p3"))
    write_summary_tables(evaluate_cases(pairs, card), tmp_path)
    text = (tmp_path / "metrics.md").read_text(encoding="utf-8").splitlines()
    assert text[0].startswith(r"Card a\_b, protocol clinical: 4 cases of 4 patients.")
    assert [line.count(" | ") for line in text[2:7]] == [12] * 5
    assert text[4].startswith(r"| liver \| 50% &lt;b&gt; \$x\$ | 0.500 (")
    assert text[4].endswith("| 4 | 1 | 0 | 0 |")
    assert text[6].startswith("| **mean of organs** |")
    latex = (tmp_path / "metrics.tex").read_text(encoding="utf-8")
    assert r"liver \textbar{} 50\% \textless{}b\textgreater{} \$x\$ & 0.500 (" in latex
    assert r"Card a\_b, protocol clinical" in latex
    assert latex.count(r" \\") == 4


def test_backslashes_and_new_lines_are_escaped_too():
    assert escape_latex("a\\b{c}~^\n#") == r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{} \#"
    assert escape_markdown("a\\b\n[c](d) `e` & <f>") == r"a\\b \[c\](d) \`e\` &amp; &lt;f&gt;"


def test_two_runs_are_compared_patient_by_patient(pair):
    """Three patients: the first run finds all, the second only the liver: Dice 1 and 1/2, a difference of 1/2 each."""
    good = evaluate_cases([pair(_labels(), _labels(), f"c{i}", f"p{i}") for i in range(3)], CARD)
    poor = evaluate_cases([pair(_labels(), _labels(spleen=False), f"c{i}", f"p{i}") for i in range(3)], CARD)
    found = compare_metrics(good, poor)
    assert found["mean"]["dice"]["mean_difference"] == 0.5
    assert (found["mean"]["dice"]["wins"], found["mean"]["dice"]["losses"]) == (3, 0)
    assert found["mean"]["hd95_mm"]["mean_difference"] == pytest.approx(-DIAGONAL / 2)
    assert found["mean"]["hd95_mm"]["wins"] == 3
    assert found["organs"]["liver"]["dice"]["ties"] == 3
    assert found["n_cases"] == 3


def test_runs_that_cannot_be_compared_are_refused(pair):
    run = evaluate_cases([pair(_labels(), _labels())], CARD)
    other_patient = evaluate_cases([pair(_labels(), _labels(), "c1", "p9")], CARD)
    other_case = evaluate_cases([pair(_labels(), _labels(), "c9")], CARD)
    for other, message in [
        (run | {"card": "btcv"}, "card differs"),
        (other_patient, "a different patient"),
        (other_case, "share no case"),
    ]:
        with pytest.raises(InputError, match=message):
            compare_metrics(run, other)
