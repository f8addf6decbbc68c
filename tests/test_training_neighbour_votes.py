"""The vote of training slices: found together or one by one, and never of the own volume's near slices."""

import pytest
import torch

from ragsam.retrieval import Retriever
from ragsam.training.neighbour_votes import SliceVotes

SIDE, COUNT = 24, 9


def slices_of(patient):
    """A patient's slices, each with a bright square of organ 1 that moves from slice to slice."""
    image, label = torch.zeros(COUNT, 3, SIDE, SIDE), torch.zeros(COUNT, 1, SIDE, SIDE, dtype=torch.long)
    generator = torch.Generator().manual_seed(patient)
    image += 0.1 * torch.rand(image.shape, generator=generator)
    for z in range(COUNT):
        image[z, :, 6 + z : 12 + z, 5 + patient : 11 + patient] += 0.8
        label[z, 0, 6 + z : 12 + z, 5 + patient : 11 + patient] = 1
    return {
        "image": image,
        "label": label,
        "patient": [f"patient {patient}"] * COUNT,
        "case": [f"case {patient}"] * COUNT,
        "slice": torch.arange(COUNT),
        "height": torch.linspace(0, 1, COUNT),
    }


def votes_of(patients, **options):
    retriever = Retriever(**{"descriptor": "thumbnail", "neighbours": 2, "carry": True} | options)
    retriever.build([slices_of(patient) for patient in range(patients)], {"card": "any"})
    return SliceVotes(retriever, 2)


def items_of(patient, *slices):
    batch = slices_of(patient)
    keys = ("image", "patient", "case", "height")
    return [{**{key: batch[key][z] for key in keys}, "slice": z, "height": float(batch["height"][z])} for z in slices]


@pytest.mark.parametrize("patients", [2, 5])
def test_together_or_one_by_one_they_are_the_same(patients):
    items = items_of(0, 1, 4, 7) + items_of(1, *range(COUNT))
    together = votes_of(patients)(items, [False] * len(items))
    alone = [votes_of(patients)([item], [False])[0] for item in items]
    for vote, single in zip(together, alone, strict=True):
        assert vote.shape == (2, SIDE, SIDE)
        assert 0 <= vote.min() <= vote.max() <= 1
        assert torch.equal(vote, single)  # to the bit: a resumed training finds other slices together


def test_the_other_patients_square_comes_to_lie_where_the_own_one_is():
    vote = votes_of(5)(items_of(0, 4), [False])[0]
    own, share = slices_of(0)["label"][4, 0] == 1, vote[1] / vote.sum(0)
    assert share[own].mean() > 0.9
    assert share[~own].mean() < 0.05


def test_a_slice_that_comes_again_is_not_searched_for_again():
    votes = votes_of(5)
    first = votes(items_of(0, 2, 3), [True, False])
    bank, votes.retriever.bank = votes.retriever.bank, None  # whoever looks now stumbles
    assert torch.equal(votes(items_of(0, 2), [True])[0], first[0])
    for slice_, repeats in ((2, False), (3, True)):  # altered now, altered then
        with pytest.raises((AttributeError, TypeError)):
            votes(items_of(0, slice_), [repeats])
    votes.retriever.bank = bank
    assert torch.equal(votes(items_of(0, 3), [False])[0], first[1])


def test_of_few_patients_the_own_ones_distant_slices_vote_and_no_near_ones(monkeypatch):
    votes = votes_of(2)
    seen = []
    search = votes.retriever.search
    monkeypatch.setattr(votes.retriever, "search", lambda *a: seen.append(search(*a)) or seen[-1])
    votes(items_of(0, 0, 8), [False, False])
    bank = votes.retriever.bank
    own = bank.cases == bank.cases[0]
    for found, slice_ in zip(seen[0].rows, (0, 8), strict=True):
        near = {row for row in range(len(bank)) if own[row] and abs(bank.slices[row] - slice_) < 3}
        assert not near & set(found.tolist())
        assert len(found) == 4


def test_of_many_patients_the_own_one_has_no_vote(monkeypatch):
    votes = votes_of(5)
    seen = []
    search = votes.retriever.search
    monkeypatch.setattr(votes.retriever, "search", lambda *a: seen.append(search(*a)) or seen[-1])
    votes(items_of(3, 4), [False])
    assert set(votes.retriever.bank.patients[seen[0].rows[0]]).isdisjoint(
        votes.retriever.bank.own_patients("patient 3", None)
    )
