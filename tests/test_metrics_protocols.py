"""One organ of one case: every status (rows 14 to 16 of what must be survived)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ragsam.metrics.protocols import COUNTED, METRICS, score_organ, unmeasured

OPTIONS = {"spacing_mm": (1.0, 2.0, 5.0), "tolerance_mm": 1.0, "penalty_mm": 42.0}


def _masks():
    full, empty = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    full[1:3, 1:3, 1] = True
    return full, empty


def test_ok_is_measured():
    full, _ = _masks()
    scores = score_organ(full, full, **OPTIONS)
    assert scores == {
        "status": "ok", "dice": 1.0, "nsd": 1.0, "hd95_mm": 0.0, "assd_mm": 0.0,
        "volume_reference_ml": pytest.approx(0.04), "volume_prediction_ml": pytest.approx(0.04),
    }  # fmt: skip


@pytest.mark.parametrize("status", ["missed", "false_positive"])
def test_a_miss_and_a_false_positive_get_the_penalty(status):
    full, empty = _masks()
    pair = (full, empty) if status == "missed" else (empty, full)
    scores = score_organ(*pair, **OPTIONS)
    assert scores["status"] == status
    assert [scores[metric] for metric in METRICS] == [0.0, 0.0, 42.0, 42.0]
    assert sorted([scores["volume_reference_ml"], scores["volume_prediction_ml"]]) == [0.0, pytest.approx(0.04)]


def test_absent_has_no_score():
    _, empty = _masks()
    scores = score_organ(empty, empty, **OPTIONS)
    assert scores["status"] == "absent"
    assert [scores[metric] for metric in METRICS] == [None] * 4


def test_nothing_is_ever_nan():
    full, empty = _masks()
    for pair in ((full, full), (full, empty), (empty, full), (empty, empty), (empty[:0, :0, :0], empty[:0, :0, :0])):
        json.dumps(score_organ(*pair, **OPTIONS), allow_nan=False)
    assert all(value is None for key, value in unmeasured("not_annotated").items() if key != "status")
    assert math.isfinite(unmeasured("missed", 3.0)["hd95_mm"])
    assert "absent" not in COUNTED
