"""The vote as a network, worked out by hand."""

import pytest
import torch

from ragsam.networks import Supports
from ragsam.retrieval.voting import VotingNetwork


def test_shares_are_those_of_the_neighbours_that_say_so():
    """Of two neighbours, trusted 0.75 and 0.25, the first sees organ 1, organ 2 and nothing, the second organ 2."""
    labels = torch.tensor([[[[1, 2, 0]], [[2, 2, 2]]]], dtype=torch.uint8)
    supports = Supports(labels, torch.tensor([[0.75, 0.25]]))
    logits = VotingNetwork(2, image_size=3)(torch.zeros(1, 3, 1, 3), supports=supports)
    shares = [[0, 0.75, 0.25], [0, 0, 1], [0.75, 0, 0.25]]
    assert torch.allclose(logits.softmax(1)[0, :, 0].T, torch.tensor(shares), atol=1e-5)
    assert logits.argmax(1).tolist() == [[[1, 2, 0]]]


def test_a_faint_vote_counts_by_its_shares_and_where_nobody_votes_is_background():
    vote = torch.tensor([0.01, 0.03, 0.0]).view(1, 3, 1, 1)
    vote = torch.cat([vote, torch.zeros(1, 3, 1, 1)], dim=3)
    logits = VotingNetwork(2, image_size=2)(torch.zeros(1, 3, 1, 2), supports=Supports.of_vote(vote, torch.ones(1)))
    assert torch.allclose(logits.softmax(1)[0, :, 0, 0], torch.tensor([0.25, 0.75, 0.0]), atol=1e-3)
    assert logits.softmax(1)[0, 0, 0, 1] > 1 - 1e-5
    assert torch.isfinite(logits).all()


def test_with_a_boost_a_minority_for_an_organ_wins():
    """Of 0.6 and 0.4, boosted twice, 0.6 and 0.8 of 1.4."""
    vote = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
    supports = Supports.of_vote(vote, torch.ones(1))
    network = VotingNetwork(1, image_size=1)
    plain = network(torch.zeros(1, 3, 1, 1), supports=supports).softmax(1).flatten()
    supports.boost = 2.0
    boosted = network(torch.zeros(1, 3, 1, 1), supports=supports).softmax(1).flatten()
    assert torch.allclose(plain, torch.tensor([0.6, 0.4]), atol=1e-4)
    assert torch.allclose(boosted, torch.tensor([0.6, 0.8]) / 1.4, atol=1e-4)


@pytest.mark.parametrize("found", [None, Supports(torch.ones(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 1))])
def test_without_neighbours_all_is_background(found):
    network = VotingNetwork(1, image_size=4)
    logits = network(torch.rand(2, 3, 4, 4), found)
    assert logits.shape == (2, 2, 4, 4)
    assert not logits.argmax(1).any()


def test_a_vote_grows_to_the_slice():
    network = VotingNetwork(1, image_size=4)
    supports = Supports(torch.ones(1, 1, 2, 2, dtype=torch.uint8), torch.ones(1, 1))
    assert network(torch.rand(1, 3, 4, 4), supports).argmax(1).tolist() == [[[1] * 4] * 4]
