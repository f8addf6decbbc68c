"""Pictures of slices: which way up, which colour where, which slices."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ragsam.evaluation.volume_agreement import volume_agreement
from ragsam.report.figures import DIFFERENCE_COLOURS, difference_png, slice_png
from ragsam.report.formatting import finding, interval, number, verdict, without_folders
from ragsam.report.plots import agreement_plot
from ragsam.report.views import as_picture, canonical, crop_box, keep_values, telling_slices, window_of

pytestmark = pytest.mark.usefixtures("full_pictures")
OPTIONS = {"spacing_mm": (1.0, 1.0), "window": (0.0, 1.0)}


def _pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_anterior_is_up_and_the_patients_left_is_on_the_right():
    """In RAS x grows to the right of the patient and y to the front: the voxel of most x and y is drawn top left."""
    plane = np.zeros((3, 2))
    plane[2, 1] = 1
    assert as_picture(plane).tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_stored_flipped_or_turned_the_view_is_the_same(signs):
    array = np.arange(24).reshape(2, 3, 4)
    expected = array[tuple(slice(None, None, s) for s in signs)]
    view = canonical(array, np.diag([*(s * m for s, m in zip(signs, (1.0, 2.0, 5.0), strict=True)), 1.0]))
    assert np.array_equal(view.array, expected)
    assert view.spacing_mm == (1.0, 2.0, 5.0)
    turned = canonical(array.transpose(2, 0, 1), np.array([[0, 1, 0, 0], [0, 0, 2, 0], [5, 0, 0, 0], [0, 0, 0, 1.0]]))
    assert np.array_equal(turned.array, array)
    assert turned.spacing_mm == (1.0, 2.0, 5.0)


def test_the_picture_keeps_the_proportions_of_the_body():
    picture = _pixels(slice_png(np.zeros((40, 10)), None, colours={}, spacing_mm=(1.0, 2.0), window=(0, 1), pixels=200))
    assert picture.shape == (100, 200, 3)


def test_a_label_is_outlined_in_its_colour_where_it_lies():
    labels = np.zeros((10, 10), int)
    labels[7:9, 1:3] = 1  # to the patient's right, at the back: bottom left
    picture = _pixels(slice_png(np.zeros((10, 10)), labels, colours={1: (10, 200, 30)}, pixels=100, **OPTIONS))
    rows, columns = np.nonzero((picture == (10, 200, 30)).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (70, 89, 10, 29)
    assert picture[80, 20].tolist() == [round(0.38 * c) for c in (10, 200, 30)]


def test_the_window_sets_black_and_white():
    image = np.array([[-100.0, 500.0], [-200.0, np.nan]])
    picture = _pixels(slice_png(image, None, colours={}, spacing_mm=(1, 1), window=(-100, 500), pixels=2))
    assert picture[..., 0].tolist() == [[0, 255], [0, 0]]


def test_a_difference_has_a_colour_of_its_own_for_each_kind():
    reference, prediction = np.zeros((9, 9), int), np.zeros((9, 9), int)
    reference[0:2], prediction[3:5] = 1, 1
    reference[6:8], prediction[6:8] = 1, 2
    picture = _pixels(difference_png(None, reference, prediction, pixels=90, **OPTIONS))
    found = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert set(DIFFERENCE_COLOURS.values()) <= found
    alike = _pixels(difference_png(None, reference, reference, pixels=90, **OPTIONS))
    assert not alike.any()


def test_the_slices_shown_are_those_that_tell_most():
    reference, prediction = np.zeros((4, 4, 20), int), np.zeros((4, 4, 20), int)
    reference[:, :, 5], prediction[:, :, 5] = 1, 1  # the largest reference, without error
    reference[0, :, 12] = 1  # four voxels missed
    prediction[0, :2, 17] = 1  # two made up
    prediction[0, :3, 13] = 1  # three, but next door to the worst
    assert telling_slices(reference, prediction) == [
        (5, "largest reference"), (12, "largest error"), (17, "next largest error"),
    ]  # fmt: skip
    assert telling_slices(reference[..., 5:6], reference[..., 5:6]) == [(0, "largest reference")]
    assert telling_slices(reference * 0, reference * 0) == [(10, "middle slice, nothing is labelled")]


def test_crop_keeps_everything_labelled_and_a_margin():
    labels = np.zeros((100, 50), int)
    labels[40:60, 0:5] = 1
    assert crop_box([labels]) == (slice(20, 80), slice(0, 15))
    assert crop_box([labels * 0]) == (slice(0, 100), slice(0, 50))


def test_window_is_the_cards_or_the_volumes_own():
    image = np.arange(1001.0)
    assert window_of(image, (-160.0, 240.0)) == (-160.0, 240.0)
    assert window_of(image, None) == pytest.approx((5.0, 995.0))


def test_labels_that_are_not_annotated_are_taken_off():
    assert keep_values(np.array([0, 1, 2, 3]), {1, 3}).tolist() == [0, 1, 0, 3]


def test_numbers_and_findings_in_words():
    assert (number(0.91234, "dice"), number(3.14159, "hd95_mm"), number(None, "dice")) == ("0.912", "3.14 mm", "n/a")
    assert interval([0.1, 0.25], "nsd", signed=True) == "+0.100 to +0.250"
    paired = {"mean_difference": -1.5, "ci95": [-2.0, -1.0], "n": 4, "wins": 3, "losses": 1, "ties": 0}
    assert verdict(paired, "hd95_mm") == "better"
    assert verdict(paired, "dice") == "worse"
    assert verdict(paired | {"ci95": [-2.0, 0.1]}, "dice") == "unclear"
    assert finding(paired, "hd95_mm", "with retrieval", "without retrieval") == (
        "HD95: better with retrieval.",
        "With retrieval minus without retrieval: -1.50 mm, 95 % interval -2.00 to -1.00; "
        "of 4 patients 3 better, 1 worse, 0 equal.",
    )
    assert "too few patients" in finding(paired | {"ci95": None}, "dice", "a", "b")[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane doe/run/model.safetensors", "model.safetensors"),
        ("evaluate /home/jane/a.json --x ~/b/c.nii", "evaluate a.json --x c.nii"),
        (r"C:\Users\jane\x.nii", "x.nii"),
        ("https://example.org/a/b 3/4 and/or", "https://example.org/a/b 3/4 and/or"),
    ],
)
def test_folders_are_cut_from_paths(text, expected):
    assert without_folders(text) == expected


def _case(reference_ml, prediction_ml, status="ok"):
    entry = {"volume_reference_ml": reference_ml, "volume_prediction_ml": prediction_ml, "status": status}
    return {"organs": {"liver": entry}}


def test_agreement_is_bias_and_limits_of_the_cases_that_both_have():
    """Differences of 1, 2 and 3 ml: bias 2, standard deviation 1, limits 2 -+ 1.96; of 30 ml on average 6.67 %."""
    cases = [_case(20, 21), _case(30, 32), _case(40, 43)]
    others = [_case(50, 0, "missed"), _case(0, 5, "false_positive"), _case(0, 0, "absent"), _case(60, None, "missed")]
    found = volume_agreement([*cases, *others, _case(None, None, "not_annotated")], "liver")
    assert found["n"] == 3
    assert found["bias_ml"] == pytest.approx(2)
    assert found["limits_ml"] == pytest.approx([0.04, 3.96])
    assert found["bias_percent"] == pytest.approx(100 * 2 / 30)
    assert found["points"][:4] == [(20.5, 1, "ok"), (31, 2, "ok"), (41.5, 3, "ok"), (25, -50, "missed")]
    assert len(found["points"]) == 5


def test_agreement_of_two_cases_has_no_limits_and_of_none_no_bias():
    assert volume_agreement([_case(2, 3), _case(3, 3)], "liver")["limits_ml"] is None
    found = volume_agreement([_case(2, 0, "missed")], "liver")
    assert (found["n"], found["bias_ml"], found["bias_percent"]) == (0, None, None)
    assert _pixels(agreement_plot(found, (200, 80, 60))).std() > 0
