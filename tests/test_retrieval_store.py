"""The vector store's contract: every store runs this suite, the exact ones by equality, the others by their recall."""

from functools import cache

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.retrieval import Bank, Retriever
from ragsam.retrieval.store import LARGEST, STORES, make_store
from ragsam.retrieval.store_faiss import ExactStore, HnswStore, IvfPqStore


class SmallHnsw(HnswStore):
    """Asks its graph however few the vectors are."""

    few = 0


class SmallIvfPq(IvfPqStore):
    """Makes its index of few vectors, and asks it unless very few of them may be found."""

    fewest, few = 600, 100


class OnGpu(ExactStore):
    """The exact store, which takes a GPU where FAISS has one."""


class AsOnGpu(ExactStore):
    """The way that is gone on a GPU, where no selector helps, gone on the CPU."""

    gpu_limit = 64

    def build(self, vectors):
        index = super().build(vectors)
        self.on_gpu = True
        return index


without_gpu = not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0
no_gpu = pytest.mark.skipif(without_gpu, reason="FAISS has no GPU here: faiss-cpu, or no device")
EXACT = [ExactStore, AsOnGpu, pytest.param(OnGpu, marks=no_gpu)]
ALL = [*EXACT, HnswStore, SmallHnsw, IvfPqStore, SmallIvfPq]
COUNT, WIDTH = 3000, 26


def unit(count, width, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def smooth(patients, slices, seed=0):
    """Descriptors as they are: 30 slices of a patient lie on a smooth path, near those of other patients."""
    draw, height = np.random.default_rng(seed), np.linspace(0, 1, slices)
    waves = np.stack([np.cos(np.pi * wave * height) / (1 + wave) for wave in range(4)], 1)
    anatomy = waves @ np.random.default_rng(99).normal(size=(4, WIDTH))
    paths = [anatomy + 0.5 * waves @ draw.normal(size=(4, WIDTH)) for _ in range(patients)]
    vectors = np.concatenate(paths).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def paths():
    return smooth(COUNT // 30, 30)


@pytest.fixture(params=ALL, ids=lambda store: store.__name__)
def store(request):
    return request.param


@pytest.fixture(scope="module")
def built(paths):
    """Stores of the paths, each made once."""
    return cache(lambda kind: kind(paths))


def truth(vectors, queries, k, masks=None):
    """Rows [B, k] by a full sort, -1 beyond what may be found."""
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    for index, mask in enumerate(masks or []):
        if mask is not None:
            exact[index, ~mask] = -np.inf
    rows = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    rows[np.take_along_axis(exact, rows, 1) == -np.inf] = -1
    return rows


def recall(found, true):
    hits = [len(set(a) & set(b) - {-1}) for a, b in zip(found, true, strict=True)]
    return sum(hits) / (true >= 0).sum()


def own_masks(rows):
    """For each row of the paths the mask that leaves its patient out, shared by a patient's rows."""
    masks = {}
    for patient in {row // 30 for row in rows}:
        masks[patient] = np.ones(COUNT, bool)
        masks[patient][patient * 30 : patient * 30 + 30] = False
    return [masks[row // 30] for row in rows]


@pytest.mark.parametrize("k", [1, 8, 40])
def test_the_nearest_are_found_best_first(store, built, paths, k):
    queries = smooth(3, 30, seed=1)
    cosines, rows = built(store).search(queries, k)
    true = truth(paths, queries, k)
    if issubclass(store, ExactStore):
        np.testing.assert_array_equal(rows, true)
    assert recall(rows, true) >= 0.98
    np.testing.assert_allclose(cosines, np.take_along_axis(queries @ paths.T, rows, 1), atol=1e-5)
    assert (np.diff(cosines, axis=1) <= 1e-6).all()
    assert (cosines.dtype, rows.dtype) == (np.float32, np.int64)
    assert all(len(set(found)) == k for found in rows.tolist())


def test_a_planted_twin_is_first_without_the_guard_and_never_found_with_it(store, built, paths):
    """Each query is a slice of the bank; beside it lie the other 29 of its patient."""
    queried = np.arange(0, COUNT, 37)
    _, rows = built(store).search(paths[queried], 8)
    np.testing.assert_array_equal(rows[:, 0], queried)
    masks = own_masks(queried)
    _, rows = built(store).search(paths[queried], 8, masks)
    assert (rows >= 0).all()
    assert not (rows // 30 == queried[:, None] // 30).any()
    assert recall(rows, truth(paths, paths[queried], 8, masks)) >= 0.98


def test_the_retriever_never_finds_the_own_patient_in_any_store(store, built, paths):
    patients = np.repeat([f"p{number}" for number in range(COUNT // 30)], 30)
    labels = np.zeros((COUNT, 1, 1), np.uint8)
    retriever = Retriever(descriptor="thumbnail", neighbours=6, carry=False)
    retriever.attach(Bank(paths, labels, patients, patients, np.arange(COUNT), np.zeros(COUNT), {}))
    retriever._store = built(store)
    queried = np.arange(5, COUNT, 101)
    assert retriever.search(paths[queried], [set()] * len(queried)).rows[:, 0].tolist() == queried.tolist()
    found = retriever.search(paths[queried], [{patients[row]} for row in queried])
    assert not (patients[found.rows] == patients[queried][:, None]).any()
    assert (found.rows >= 0).all()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9])
def test_a_mask_lets_through_what_it_allows_and_nothing_else(store, built, paths, share):
    mask = np.random.default_rng(1).random(COUNT) < share
    queries = smooth(1, 30, seed=2)
    _, rows = built(store).search(queries, 8, [mask] * 30)
    allowed = min(8, int(mask.sum()))
    assert ((rows >= 0).sum(1) == allowed).all()
    assert mask[rows[rows >= 0]].all()
    true = truth(paths, queries, 8, [mask] * 30)
    if issubclass(store, ExactStore):
        np.testing.assert_array_equal(rows, true)
    assert not allowed or recall(rows, true) >= 0.9


def test_each_query_of_a_batch_has_its_own_mask(store, built, paths):
    queries = smooth(1, 30, seed=3)[::5]
    low = np.arange(COUNT) < 1500
    masks = [None, low, ~low, low, np.zeros(COUNT, bool), None]
    _, rows = built(store).search(queries, 5, masks)
    alone = [built(store).search(queries[i : i + 1], 5, [mask])[1][0] for i, mask in enumerate(masks)]
    np.testing.assert_array_equal(rows, np.stack(alone))
    assert (rows[[1, 3]] < 1500).all()
    assert (rows[2] >= 1500).all()
    assert (rows[4] == -1).all()


def test_beyond_the_last_vector_rows_are_minus_one(store):
    cosines, rows = store(unit(3, 8)).search(unit(2, 8, seed=1), 5)
    assert (rows[:, 3:] == -1).all()
    assert (cosines[:, 3:] == -np.inf).all()
    assert {tuple(sorted(row)) for row in rows[:, :3]} == {(0, 1, 2)}


def test_k_may_be_all_of_many(store, built, paths):
    _, rows = built(store).search(paths[:2], COUNT + 5)
    assert (np.sort(rows, axis=1) == [*[-1] * 5, *range(COUNT)]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_finds_nothing_and_spoils_no_other(store, built, paths, value):
    queries = smooth(1, 30, seed=4)[:3].copy()
    clean = built(store).search(queries, 4)[1]
    queries[1, 2] = value
    _, rows = built(store).search(queries, 4)
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


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**32 - 1), st.data())
def test_small_banks_of_any_size_are_searched_exactly(count, k, seed, data):
    vectors, queries = unit(count, 5, seed), unit(3, 5, seed + 1)
    masks = [np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count))), None]
    masks.append(masks[0])
    true = truth(vectors, queries, k, masks)
    true = np.pad(true, ((0, 0), (0, k - true.shape[1])), constant_values=-1)
    for kind in STORES:
        _, rows = make_store(vectors, kind).search(queries, k, masks)
        np.testing.assert_array_equal(rows, true)


def test_auto_chooses_by_size_and_can_be_overridden():
    class Vectors:
        def __init__(self, count):
            self.count = count

        def __len__(self):
            return self.count

    kinds = dict.fromkeys(STORES, lambda vectors: None)
    chosen = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in kinds:
            patch.setitem(STORES, name, lambda vectors, name=name: chosen.setdefault(len(vectors), name))
        for count in (1, LARGEST["exact"], LARGEST["exact"] + 1, LARGEST["hnsw"], LARGEST["hnsw"] + 1):
            make_store(Vectors(count))
        assert list(chosen.values()) == ["exact", "exact", "hnsw", "hnsw", "ivfpq"]
        assert make_store(Vectors(7), "ivfpq") == "ivfpq"
    with pytest.raises(ValueError, match="store 'tree' is unknown; choose auto or one of exact, hnsw, ivfpq"):
        make_store(unit(3, 8), "tree")
    with pytest.raises(ValueError, match="store 'tree' is unknown"):
        Retriever(descriptor="thumbnail", neighbours=8, carry=False, store="tree")


@pytest.mark.parametrize("kind", STORES)
def test_the_retriever_passes_the_choice_on(kind):
    retriever = Retriever(descriptor="thumbnail", neighbours=8, carry=False, store=kind)
    names = np.array(["p0", "p1"])
    retriever.attach(Bank(np.eye(2, dtype=np.float32), np.zeros((2, 1, 1), np.uint8), names, names, names, names, {}))
    assert type(retriever._store) is STORES[kind]
