"""Wilcoxon's test and Holm's correction, worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragsam.metrics.significance import holm, wilcoxon_p


def test_five_of_a_sign_are_one_of_sixteen():
    """All ranks on one side: 1 of the 2^5 signs, two-sided 2/32; of six, 2/64."""
    assert wilcoxon_p([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)
    assert wilcoxon_p([-0.1, -0.2, -0.3, -0.4, -0.5, -0.6]) == pytest.approx(2 / 64)


def test_ties_share_their_rank():
    """Ranks 2.5 four times and 5; one 2.5 is against: 0 in 1 way and 2.5 in 4 of 32 ways, two-sided 10/32."""
    assert wilcoxon_p([0.1, 0.1, 0.1, 0.2, -0.1]) == pytest.approx(10 / 32)


def test_differences_equal_but_for_rounding_are_ties_and_such_zeros_are_left_out():
    assert wilcoxon_p([0.1, 0.3 - 0.2, 0.1, 0.2, 0.2 - 0.3]) == pytest.approx(10 / 32)
    assert wilcoxon_p([1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1e-16]) == pytest.approx(2 / 32)


@pytest.mark.parametrize("nothing", [[], [0.0], [0.0, 1e-17]])
def test_nothing_to_rank_has_no_p(nothing):
    assert wilcoxon_p(nothing) is None


def test_holm_by_hand():
    """0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before; what is not tested is not counted."""
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None})
    assert corrected == {"a": pytest.approx(0.03), "b": pytest.approx(0.06), "c": pytest.approx(0.06),
                         "d": pytest.approx(0.02), "e": None}  # fmt: skip
    assert list(corrected) == ["a", "b", "c", "d", "e"]
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.dictionaries(st.integers(), st.floats(0, 1), min_size=1))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p_values):
    corrected = holm(p_values)
    for key, p in p_values.items():
        assert p <= corrected[key] <= min(1.0, len(p_values) * p) + 1e-12
    order = sorted(p_values, key=p_values.__getitem__)
    assert all(corrected[a] <= corrected[b] for a, b in pairwise(order))
