"""Novelty: a volume's distance to a bank, ranked against the bank's own, worked out by hand and on phantoms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ragsam.retrieval import Bank
from ragsam.retrieval.novelty import FLAG_BELOW, SCORED_CASES, bank_scores, novelty, volume_score


def at(*degrees):
    """Unit vectors in the plane."""
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def test_the_score_is_the_mean_distance_of_the_slices_by_hand():
    assert volume_score([0, 1, 2], np.array([1.0, 0.8, 0.6])) == pytest.approx(0.2)
    assert volume_score([0, 0, 1], np.array([0.2, 0.9, 0.7])) == pytest.approx(0.2)  # the nearest window counts
    assert volume_score([0, 1], np.array([0.5, -np.inf])) == pytest.approx(0.5)
    assert volume_score([0, 1], np.array([np.nan, -np.inf])) is None
    assert volume_score([], np.array([])) is None


def test_a_bank_scores_its_volumes_against_other_patients_by_hand():
    """Slices at 0 and 1 degrees are one patient's two scans; the others' nearest are at 60 and 90 degrees."""
    patients, cases = np.array(["p0", "p0", "p1", "p2"]), np.array(["c0", "c1", "c2", "c3"])
    scores = bank_scores(at(0, 1, 60, 90), patients, cases, np.zeros(4, int))
    expected = {"c0": 60, "c1": 59, "c2": 30, "c3": 30}
    assert scores == pytest.approx({case: 1 - np.cos(np.radians(angle)) for case, angle in expected.items()}, abs=1e-6)


def test_one_patient_alone_has_no_scores():
    names = np.array(["p0", "p0"])
    assert bank_scores(at(0, 90), names, np.array(["c0", "c1"]), np.zeros(2, int)) == {}
    assert novelty([0], np.array([0.5]), []) is None
    assert novelty([0], np.array([-np.inf]), [0.1, 0.2]) is None


def test_percentile_and_p_value_by_hand():
    """Logarithms -5, -4 and -3: mean -4, deviation 1; a score of 1 / e is 3 away, times sqrt(3/4)."""
    known = np.exp([-5.0, -4.0, -3.0])
    new = novelty([0], np.array([1 - np.exp(-1.0)]), known)
    assert new.percentile == 100
    assert new.p_value == pytest.approx(stats.t.sf(3 * 0.75**0.5, 2))
    assert novelty([0], np.array([1 - np.exp(-4.0)]), known).p_value == pytest.approx(0.5)
    assert novelty([0], np.array([1 - np.exp(-3.5)]), known).percentile == pytest.approx(200 / 3)
    few = novelty([0], np.array([0.1]), known[:2])
    assert (few.p_value, few.flagged) == (None, False)


def test_copies_are_not_novel_however_alike_the_bank_is():
    new = novelty([0, 1], np.array([1.0, 1.0]), [0.0] * 10)
    assert not new.flagged
    assert new.as_json() == {"score": 0.0, "percentile": 0.0, "p_value": 0.5, "flagged": False}


@given(st.lists(st.floats(1e-3, 1.0), min_size=3, max_size=20), st.floats(1e-3, 1.5), st.floats(1e-3, 0.4))
def test_farther_is_never_less_novel(known, score, more):
    near, far = (novelty([0], np.array([1 - s]), known) for s in (score, score + more))
    assert far.p_value <= near.p_value
    assert far.percentile >= near.percentile
    assert far.flagged or not near.flagged


def test_a_bank_of_the_same_kind_raises_no_more_alarms_than_it_says():
    """By law: 20 banks of 30 log-normal scores, 300 more of each; the share of alarms is that of the threshold."""
    draw = np.random.default_rng(0)
    alarms = [novelty([0], np.array([1 - score]), known).flagged
              for known in np.exp(draw.normal(-3, 0.3, (20, 30)))
              for score in np.exp(draw.normal(-3, 0.3, 300))]  # fmt: skip
    assert np.mean(alarms) == pytest.approx(FLAG_BELOW, rel=0.5)


def made_bank(patients, seed=0, slices=12, width=10):
    draw, height = np.random.default_rng(seed), np.linspace(0, 1, slices)
    waves = np.stack([np.cos(np.pi * wave * height) / (1 + wave) for wave in range(3)], 1)
    anatomy = waves @ np.random.default_rng(5).normal(size=(3, width))
    vectors = np.concatenate([anatomy + 0.2 * waves @ draw.normal(size=(3, width)) for _ in range(patients)])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = np.repeat([f"p{number:03d}" for number in range(patients)], slices)
    labels = np.zeros((len(vectors), 1, 1), np.uint8)
    numbers = np.tile(np.arange(slices), patients)
    return Bank(vectors, labels, names, names, numbers, np.tile(height, patients), {})


def test_the_scores_are_stored_with_a_bank(tmp_path):
    bank = made_bank(6)
    bank.save(tmp_path / "bank")
    opened = Bank.open(tmp_path / "bank")
    assert len(opened.stored_scores) == 6
    assert opened.scores == pytest.approx(bank.scores, rel=1e-5)


def test_a_large_bank_scores_some_of_its_volumes():
    assert len(made_bank(SCORED_CASES + 40).scores) == SCORED_CASES


def test_what_is_of_the_banks_kind_is_not_flagged_and_what_is_not_is():
    bank, others = made_bank(30), made_bank(40, seed=1)
    noise = np.random.default_rng(2).normal(size=(12, 10)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)

    def look(vectors):
        return novelty(range(len(vectors)), (vectors @ bank.descriptors.T).max(1), bank.scores.values())

    assert look(noise).flagged
    assert look(noise).percentile == 100
    assert sum(look(others.descriptors[start : start + 12]).flagged for start in range(0, 480, 12)) <= 1


def test_pairs_that_are_compared_once_give_what_all_against_all_do():
    """Two volumes of one patient, and windows of one slice, lie among them."""
    draw = np.random.default_rng(0)
    descriptors = draw.normal(size=(40, 6))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    order = draw.permutation(40)
    cases = np.array([f"c{number}" for number in range(8)]).repeat(5)[order]
    patients = np.array([f"p{max(number, 1)}" for number in range(8)]).repeat(5)[order]
    slices = np.tile([0, 0, 1, 2, 3], 8)[order]
    once = bank_scores(descriptors, patients, cases, slices)
    assert len(once) == 8
    for case, score in once.items():
        own = cases == case
        cosines = descriptors[own] @ descriptors[patients != patients[own][0]].T
        assert score == pytest.approx(volume_score(slices[own].tolist(), cosines.max(1)))
