"""The vector store's contract: every backend runs this suite."""

import numpy as np
import pytest

from ragsam.retrieval.store import FaissStore

STORES = [FaissStore]


def unit(count, width, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(params=STORES, ids=lambda store: store.__name__)
def store(request):
    return request.param


@pytest.mark.parametrize("k", [1, 5, 200])
def test_the_nearest_are_exact_and_best_first(store, k):
    vectors, queries = unit(200, 24), unit(7, 24, seed=1)
    cosines, rows = store(vectors).search(queries, k)
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    expected = np.argsort(-exact, axis=1)[:, :k]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(exact, expected, axis=1), atol=1e-6)
    assert cosines.dtype == np.float32
    assert rows.dtype == np.int64
    assert rows.shape == cosines.shape == (7, k)


def test_a_vector_finds_itself(store):
    vectors = unit(50, 8)
    cosines, rows = store(vectors).search(vectors, 1)
    np.testing.assert_array_equal(rows[:, 0], np.arange(50))
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)


def test_beyond_the_last_vector_rows_are_minus_one(store):
    _, rows = store(unit(3, 8)).search(unit(2, 8, seed=1), 5)
    assert (rows[:, 3:] == -1).all()
    assert {tuple(sorted(row)) for row in rows[:, :3]} == {(0, 1, 2)}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_finds_nothing_and_spoils_no_other(store, value):
    vectors = unit(10, 8)
    queries = unit(3, 8, seed=1)
    clean = store(vectors).search(queries, 4)[1]
    queries[1, 2] = value
    _, rows = store(vectors).search(queries, 4)
    assert (rows[1] == -1).all()
    np.testing.assert_array_equal(rows[[0, 2]], clean[[0, 2]])


def test_no_query_is_no_answer(store):
    cosines, rows = store(unit(4, 8)).search(np.zeros((0, 8), np.float32), 2)
    assert rows.shape == cosines.shape == (0, 2)


def test_other_layouts_and_precisions_are_taken(store):
    vectors = unit(20, 8)
    queries = np.asfortranarray(unit(4, 8, seed=1).astype(np.float64))
    rows = store(np.asfortranarray(vectors.astype(np.float64))).search(queries, 3)[1]
    np.testing.assert_array_equal(rows, store(vectors).search(queries.astype(np.float32), 3)[1])
