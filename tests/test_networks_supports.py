"""The neighbours' vote, worked out by hand, and its way into the decoder's features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ragsam.networks.label_prior import ALL_TO_ALL, LabelPriorFusion
from ragsam.networks.supports import Supports, label_prior, resize_prior


def test_the_vote_by_hand():
    """Two neighbours of a row of three pixels, trusted 0.75 and 0.25; labels 0 1 2 and 0 2 2."""
    labels = torch.tensor([[[[0, 1, 2]], [[0, 2, 2]]]], dtype=torch.uint8)
    prior = label_prior(Supports(labels, torch.tensor([[0.75, 0.25]])), 3)
    assert prior.tolist() == [[[[1.0, 0.0, 0.0]], [[0.0, 0.75, 0.0]], [[0.0, 0.25, 1.0]]]]


def test_each_query_has_its_own_neighbours():
    labels = torch.tensor([[[[1]], [[2]]], [[[2]], [[2]]], [[[1]], [[0]]]], dtype=torch.uint8)
    weights = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.0, 0.0]])
    prior = label_prior(Supports(labels, weights), 3)[:, :, 0, 0]
    torch.testing.assert_close(prior, torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))


def test_no_neighbour_at_all_is_no_vote():
    supports = Supports(torch.zeros(2, 0, 4, 4, dtype=torch.uint8), torch.zeros(2, 0))
    assert torch.equal(label_prior(supports, 3), torch.zeros(2, 3, 4, 4))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 5), st.integers(2, 6))
def test_a_vote_sums_to_the_trust_and_equals_one_hot(seed, batch, count, classes):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (batch, count, 3, 4), generator=generator)
    weights = torch.rand(batch, count, generator=generator)
    prior = label_prior(Supports(labels.to(torch.uint8), weights), classes)
    one_hot = nn.functional.one_hot(labels, classes).float()
    torch.testing.assert_close(prior, torch.einsum("bk,bkhwc->bchw", weights, one_hot))
    torch.testing.assert_close(prior.sum(1), weights.sum(1)[:, None, None].expand(batch, 3, 4))


def test_a_prior_is_averaged_down_and_kept_at_its_own_size():
    prior = torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]])
    assert resize_prior(prior, (1, 1)).item() == 0.75
    assert resize_prior(prior, (2, 2)) is prior
    up = resize_prior(prior, (4, 4))
    assert up.shape == (1, 1, 4, 4)
    assert up[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_supports_move_together():
    moved = Supports(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.ones(1, 1)).to("meta")
    assert moved.labels.device.type == moved.weights.device.type == "meta"


@pytest.mark.parametrize(("classes", "size"), [(3, (4, 4)), (3, (8, 8)), (3, (16, 16)), (ALL_TO_ALL + 1, (8, 8))])
def test_an_untrained_fusion_adds_exactly_nothing(classes, size):
    torch.manual_seed(0)
    fusion, features = LabelPriorFusion(classes, 8), torch.randn(1, 8, *size)
    supports = Supports(torch.randint(0, 3, (1, 2, 8, 8), dtype=torch.uint8), torch.tensor([[0.6, 0.4]]))
    steered, prior = fusion(features, supports)
    assert torch.equal(steered, features)
    assert torch.equal(prior, torch.zeros(1, classes, *size))
    for layer in (fusion.convs[-1], fusion.to_logits):
        nn.init.ones_(layer.weight)
    steered, prior = fusion(features, supports)
    assert not torch.allclose(steered, features)
    voted = prior[:, :3] if classes > ALL_TO_ALL else prior
    assert voted.abs().min() > 0


def test_of_many_classes_each_costs_a_fusion_as_much_as_the_one_before():
    def flops(classes):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            supports = Supports(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.ones(1, 1))
            LabelPriorFusion(classes, 4)(torch.zeros(1, 4, 8, 8), supports)
        return counter.get_total_flops()

    # 3 x 3 from each class to 4 channels and to its own logit, 64 pixels, a multiply-add counting 2
    more, most = ALL_TO_ALL + 8, ALL_TO_ALL + 72
    assert flops(most) - flops(more) == (most - more) * 9 * (4 + 1) * 64 * 2


def test_a_fusion_follows_the_features_precision():
    fusion = LabelPriorFusion(3, 8).bfloat16()
    supports = Supports(torch.ones(1, 1, 4, 4, dtype=torch.uint8), torch.ones(1, 1))
    results = fusion(torch.randn(1, 8, 4, 4, dtype=torch.bfloat16), supports)
    assert [result.dtype for result in results] == [torch.bfloat16] * 2


def test_supports_come_apart_query_by_query():
    whole = Supports(torch.ones(3, 2, 8, 8), torch.rand(3, 2), vote=torch.rand(3, 2, 8, 8), patients=5)
    parts = list(whole.each())
    for name in ("labels", "weights", "vote"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert all(part.annotated is None and part.patients == 5 for part in parts)
