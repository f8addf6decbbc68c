"""Means and differences by patient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.metrics.statistics import mean_interval, paired_difference


def _column(values):
    return {"liver": {f"p{i}": [value] for i, value in enumerate(values)}}


def test_volumes_of_one_patient_are_averaged_first():
    """Patient a: (0 + 1) / 2; patient b: 1. By volume the mean would be 2/3."""
    found = mean_interval({"liver": {"a": [0.0, 1.0], "b": [1.0]}})
    assert found["mean"] == pytest.approx(0.75)
    assert (found["n"], found["n_cases"]) == (2, 3)


def test_mean_over_organs_is_the_mean_of_their_means():
    """Liver (1 + 0.8 + 0.6) / 3 = 0.8; spleen, in one patient only, 0.2: together 0.5. An empty column is left out."""
    table = _column([1.0, 0.8, 0.6]) | {"spleen": {"p1": [0.2]}, "pancreas": {}}
    found = mean_interval(table)
    assert found["mean"] == pytest.approx(0.5)
    assert found["n"] == 3


@pytest.mark.parametrize(
    ("values", "interval", "method"),
    [
        ([], None, "none: no values"),
        ([0.5], None, "none: fewer than 3 patients"),
        ([0.5, 0.7], None, "none: fewer than 3 patients"),
        ([0.9, 0.9, 0.9], [0.9, 0.9], "all values are equal"),
    ],
)
def test_degenerate_intervals_are_stated(values, interval, method):
    found = mean_interval(_column(values))
    assert found["ci95"] == (interval and pytest.approx(interval))
    assert found["method"] == method
    assert found["n"] == len(values)
    assert (found["mean"] is None) == (not values)


def test_interval_of_many_normal_values_is_that_of_theory():
    values = np.random.default_rng(1).normal(10, 1, 400)
    low, high = mean_interval(_column(values))["ci95"]
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_the_same_again_whatever_the_order():
    table = _column([0.1, 0.5, 0.7, 0.9, 0.95])
    turned = {"liver": dict(reversed(table["liver"].items()))}
    assert mean_interval(table) == mean_interval(turned) == mean_interval(table)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=12))
@settings(max_examples=15, deadline=None)
def test_the_interval_lies_within_the_values(values):
    found = mean_interval(_column(values))
    low, high = found["ci95"]
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_paired_difference_by_hand():
    """Differences 0.1, 0.2, -0.1, 0: mean 0.05, two wins, one loss, one tie. p4 is in one run only."""
    first, second = _column([0.5, 0.7, 0.4, 0.25, 0.9]), _column([0.4, 0.5, 0.5, 0.25])
    found = paired_difference(first, second)
    assert found["mean_difference"] == pytest.approx(0.05)
    assert (found["wins"], found["losses"], found["ties"]) == (2, 1, 1)
    assert (found["n"], found["unpaired"]) == (4, 1)
    low, high = found["ci95"]
    assert low < 0.05 < high


def test_a_win_is_a_smaller_distance_where_lower_is_better():
    found = paired_difference(_column([1.0, 2.0, 3.0]), _column([2.0, 3.0, 4.0]), lower_is_better=True)
    assert found["mean_difference"] == -1.0
    assert (found["wins"], found["losses"]) == (3, 0)
    assert found["ci95"] == [-1.0, -1.0]


def test_nothing_shared_has_no_difference():
    found = paired_difference({"liver": {"a": [1.0]}}, {"liver": {"b": [1.0]}})
    assert found["mean_difference"] is None
    assert (found["n"], found["unpaired"]) == (0, 2)


def test_swapping_the_runs_turns_the_sign():
    first, second = _column([0.5, 0.7, 0.4, 0.3]), _column([0.4, 0.5, 0.5, 0.25])
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one["mean_difference"] == pytest.approx(-other["mean_difference"])
    assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])
