"""The retriever: the nearest slices of other patients, and never one of the query's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.inference.volume_supports import VolumeSupports
from ragsam.retrieval import Bank, Retriever

SIDE = 16


def image_of(*seed):
    generator = torch.Generator().manual_seed(hash(seed) % 2**32)
    return torch.rand(3, SIDE, SIDE, generator=generator)


def slices_of(patient, count, case=None):
    """A patient's slices as a loader's batch; the label of a slice is 1 at a pixel of its own."""
    numbers = list(range(count))
    label = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.long)
    for z in numbers:
        label[z, 0, z % SIDE, patient % SIDE] = 1
    return {
        "image": torch.stack([image_of(patient, z) for z in numbers]),
        "label": label,
        "patient": [f"patient {patient}"] * count,
        "case": [case or f"case {patient}"] * count,
        "slice": torch.tensor(numbers),
        "height": torch.tensor([z / max(count - 1, 1) for z in numbers], dtype=torch.float64),
    }


def with_bank(*counts, **options):
    """A retriever with a bank of patients 0, 1, ... of so many slices."""
    retriever = Retriever(**{"descriptor": "thumbnail", "neighbours": 8, "carry": False} | options)
    retriever.build([slices_of(patient, count) for patient, count in enumerate(counts)], {"card": "any"})
    return retriever


def query_of(patient, z, count):
    batch = slices_of(patient, count)
    return batch["image"][z : z + 1], torch.zeros(1, 1, 1, 1), batch["height"][z : z + 1].float()


def search(retriever, patient, z, count, own):
    image, embedding, height = query_of(patient, z, count)
    return retriever.search(retriever.describe(image, embedding, height), [own])


def test_a_planted_twin_is_found_first_without_exclusion_and_never_with_it():
    retriever = with_bank(6, 6, 6, neighbours=4)
    for z in range(6):
        found = search(retriever, 1, z, 6, set())
        assert found.rows[0, 0] == 6 + z
        assert found.similarity[0, 0] == pytest.approx(1.0, abs=1e-5)
        found = search(retriever, 1, z, 6, retriever.bank.own_patients("patient 1", None))
        assert not set(found.rows[0]) & set(range(6, 12))
        assert (found.rows >= 0).all()


def test_a_patient_with_more_slices_than_neighbours_leaves_none_of_them_and_k_others():
    """All 30 own slices are nearer than the 8 others, at four neighbours."""
    own, others = np.eye(1, 8).repeat(30, 0), -np.eye(1, 8).repeat(8, 0)
    others[:, 1] = np.linspace(0, 1, 8)
    vectors = np.concatenate([own, others]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    patients = np.array(["p0"] * 30 + ["p1"] * 8)
    retriever = Retriever(descriptor="thumbnail", neighbours=4, carry=False)
    retriever.attach(Bank(vectors, np.zeros((38, 2, 2), np.uint8), patients, patients, np.arange(38), np.zeros(38), {}))
    assert (retriever.search(vectors[:1], [set()]).rows < 30).all()
    found = retriever.search(vectors[:1], [{"p0"}])
    assert found.rows.tolist() == [[37, 36, 35, 34]]


def test_each_query_of_a_batch_leaves_out_its_own():
    retriever = with_bank(5, 5, 5, neighbours=10)
    batch = slices_of(0, 5)
    vectors = retriever.describe(batch["image"][:3], None, batch["height"][:3])
    own = [retriever.bank.own_patients(f"patient {patient}", None) for patient in range(3)]
    found = retriever.search(vectors, own)
    for patient, rows in enumerate(found.rows):
        assert sorted(rows) == sorted(set(range(15)) - set(range(5 * patient, 5 * patient + 5)))


def test_an_unknown_patient_finds_everything():
    retriever = with_bank(3, 3, neighbours=6)
    found = search(retriever, 0, 1, 3, retriever.bank.own_patients("somebody else", "another scan"))
    assert sorted(found.rows[0]) == list(range(6))
    assert found.rows[0, 0] == 1


def test_weights_sum_to_one_and_follow_softmax_of_the_cosine():
    retriever = with_bank(6, 6, neighbours=5, temperature=0.1)
    found = search(retriever, 1, 2, 6, retriever.bank.own_patients("patient 1", None))
    powers = np.exp(found.similarity / 0.1)
    np.testing.assert_allclose(found.weights, powers / powers.sum(), rtol=1e-5)
    assert found.weights.sum() == pytest.approx(1.0)
    assert (np.diff(found.similarity[0]) <= 0).all()


def test_two_neighbours_by_hand():
    """Cosines 1 and 0 at temperature 1: weights e / (e + 1) and 1 / (e + 1)."""
    retriever = Retriever(descriptor="thumbnail", neighbours=2, carry=False, temperature=1.0)
    names = np.array(["p0", "p1"])
    retriever.attach(
        Bank(np.eye(2, dtype=np.float32), np.zeros((2, 2, 2), np.uint8), names, names, np.arange(2), np.zeros(2), {})
    )
    found = retriever.search(np.array([[0.0, 1.0]], np.float32), [set()])
    assert found.rows.tolist() == [[1, 0]]
    np.testing.assert_allclose(found.weights, [[np.e / (np.e + 1), 1 / (np.e + 1)]])


def test_fewer_others_than_neighbours_are_filled_up_with_nothing():
    retriever = with_bank(4, 2, neighbours=5)
    found = search(retriever, 0, 1, 4, retriever.bank.own_patients("patient 0", None))
    assert sorted(found.rows[0, :2]) == [4, 5]
    assert found.rows[0, 2:].tolist() == [-1] * 3
    assert found.weights[0, 2:].tolist() == [0.0] * 3
    assert found.weights[0, :2].sum() == pytest.approx(1.0)


def test_a_row_of_minus_one_reads_no_label():
    """The last label of the bank is full of 255s: an index of -1 would show them."""
    retriever = with_bank(4, 2, neighbours=5)
    retriever.bank.labels[-1] = 255
    found = search(retriever, 1, 0, 2, retriever.bank.own_patients("patient 1", None))
    assert found.rows[0, -1] == -1
    supports = retriever.supports(found, torch.zeros(1, 3, SIDE, SIDE))[0]
    assert supports.labels.dtype == torch.uint8
    assert supports.labels.shape == (1, 5, SIDE, SIDE)
    assert supports.labels.max() == 1
    assert not supports.labels[0, 4].any()
    assert supports.neighbours.tolist() == [4]
    for rank, row in enumerate(found.rows[0, :4]):
        np.testing.assert_array_equal(supports.labels[0, rank], retriever.bank.labels[row])


@pytest.mark.parametrize("carry", [True, False])
def test_it_tells_how_many_vote(carry):
    """Of four slices of another patient three are asked for, or five."""
    for neighbours, voters in ((3, 3), (5, 4)):
        retriever = with_bank(4, 2, neighbours=neighbours, carry=carry)
        assert VolumeSupports(retriever, "patient 1", None)(*query_of(1, 0, 2)).neighbours.tolist() == [voters]


def test_a_bank_of_the_own_patient_alone_gives_no_supports():
    retriever = with_bank(4, neighbours=3)
    found = search(retriever, 0, 1, 4, retriever.bank.own_patients("patient 0", None))
    assert (found.rows == -1).all()
    assert not found.weights.any()
    supports = retriever.supports(found, torch.zeros(1, 3, SIDE, SIDE))[0]
    assert not supports.labels.any()
    assert not supports.weights.any()


def test_a_slice_that_is_not_finite_gets_no_supports():
    retriever = with_bank(4, 4, neighbours=3)
    image, embedding, height = query_of(0, 0, 4)
    image = torch.cat([image, torch.full_like(image, float("nan"))])
    supports = VolumeSupports(retriever, None, None)(image, embedding, height.repeat(2))
    assert supports.weights[0].sum() == pytest.approx(1.0)
    assert not supports.weights[1].any()
    assert not supports.labels[1].any()


def test_a_volumes_own_patient_is_left_out():
    retriever = with_bank(6, 6, neighbours=6)
    image, embedding, height = query_of(1, 2, 6)
    own_label = slices_of(1, 6)["label"][2, 0].to(torch.uint8)
    unknown = VolumeSupports(retriever, None, None)
    assert torch.equal(unknown(image, embedding, height).labels[0, 0], own_label)
    for query in (("patient 1", None), (None, "case 1"), ("patient 1", "case 1"), ("renamed", "case 1")):
        labels = VolumeSupports(retriever, *query)(image, embedding, height).labels
        assert labels[..., 0].any()  # patient 0 is in column 0
        assert not labels[..., 1].any()


def test_what_was_found_is_noted():
    supports = VolumeSupports(with_bank(3, 3, neighbours=2), None, None)
    assert supports.trace == []
    supports(*query_of(0, 1, 3))
    ((heights, found),) = supports.trace
    assert heights.tolist() == [0.5]
    assert found.rows[0, 0] == 1


def test_the_embedding_descriptor_is_built_with_the_encoder():
    retriever, seen = Retriever(descriptor="embedding", neighbours=2, carry=False), []

    def encode(image):
        seen.append(len(image))
        return torch.nn.functional.avg_pool2d(image, 4)

    bank = retriever.build([slices_of(0, 4), slices_of(1, 4)], {}, encode)
    assert retriever.needs_embedding
    assert seen == [4, 4]
    assert len(bank) == 8
    image, _, height = query_of(1, 2, 4)
    found = retriever.search(retriever.describe(image, encode(image), height), [set()])
    assert found.rows[0, 0] == 6


def test_an_opened_bank_finds_the_same(tmp_path):
    retriever = with_bank(5, 5, neighbours=4)
    before = VolumeSupports(retriever, "patient 0", "case 0")(*query_of(0, 3, 5))
    retriever.bank.save(tmp_path / "bank")
    retriever.attach(Bank.open(tmp_path / "bank"))
    after = VolumeSupports(retriever, "patient 0", "case 0")(*query_of(0, 3, 5))
    assert torch.equal(after.labels, before.labels)
    assert torch.equal(after.weights, before.weights)


def test_an_unknown_descriptor_is_refused():
    with pytest.raises(ValueError, match="'histogram' is unknown; choose one of centred, thumbnail, embedding"):
        Retriever(descriptor="histogram", neighbours=8, carry=False)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_no_result_ever_belongs_to_the_query_and_the_rest_is_exact(counts, neighbours, seed, data):
    draw = np.random.default_rng(seed)
    patients = np.repeat([f"p{i}" for i in range(len(counts))], counts)
    draw.shuffle(patients)
    total = len(patients)
    vectors = draw.normal(size=(total + 3, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    retriever = Retriever(descriptor="thumbnail", neighbours=neighbours, carry=False)
    labels = np.zeros((total, 1, 1), np.uint8)
    retriever.attach(Bank(vectors[:total], labels, patients, patients, np.arange(total), np.zeros(total), {}))
    keys = st.sets(st.sampled_from([*sorted(set(patients)), "unknown"]))
    own = data.draw(st.lists(keys, min_size=3, max_size=3))
    found = retriever.search(vectors[total:], own)
    assert found.rows.shape == found.similarity.shape == found.weights.shape == (3, neighbours)
    exact = vectors[total:] @ vectors[:total].T
    for index in range(3):
        others = [row for row in np.argsort(-exact[index]) if patients[row] not in own[index]]
        count = min(neighbours, len(others))
        rows = found.rows[index]
        assert not {patients[row] for row in rows if row >= 0} & own[index]
        assert (rows >= 0).sum() == count
        assert len(set(rows[:count])) == count
        np.testing.assert_allclose(found.similarity[index, :count], exact[index, others[:count]], atol=1e-5)
        np.testing.assert_allclose(found.similarity[index, :count], exact[index, rows[:count]], atol=1e-5)
        assert (rows[count:] == -1).all()
        assert not found.weights[index, count:].any()
        assert found.weights[index].sum() == pytest.approx(float(count > 0))
