"""The product of a network's probabilities with the vote, worked out by hand."""

import math

import pytest
import torch

from ragsam.networks import Segmenter, Supports
from ragsam.networks.vote_product import GROWTH, MANY, NETWORK_DOUBT, POWER, VOTE_DOUBT, VoteProduct

SIZE, CLASSES = 32, 2


def voted(*shares, found=1.0, **told):
    supports = Supports.of_vote(torch.tensor(shares)[None, :, None, None], torch.tensor([found]))
    for name, value in told.items():
        setattr(supports, name, value)
    return supports


def product(weight=1.0, classes=3):
    module = VoteProduct(classes)
    module.weight.fill_(weight)
    return module


OWN = torch.tensor([0.5, 0.3, 0.2])


def chances(module, vote):
    """What becomes of the network's 0.5, 0.3 and 0.2."""
    return module(OWN.log()[None, :, None, None], vote).flatten().softmax(0)


@pytest.mark.parametrize("patients", [1, 16, 81])
def test_probabilities_are_multiplied_by_a_power_of_the_vote(patients):
    """The vote is for the second class alone, faint or not."""
    power = POWER * patients**GROWTH
    powers = [VOTE_DOUBT**power, (1 + VOTE_DOUBT) ** power, VOTE_DOUBT**power]
    expected = (OWN + NETWORK_DOUBT) * torch.tensor(powers)
    for vote in (voted(0.0, 1.0, 0.0, patients=patients), voted(0.0, 0.25, 0.0, patients=patients)):
        torch.testing.assert_close(chances(product(), vote), expected / expected.sum(), rtol=1e-3, atol=1e-5)


def test_without_a_number_in_the_supports_its_own_patients_count():
    module = product()
    module.start(16)
    assert torch.equal(chances(module, voted(0.2, 0.5, 0.3)), chances(module, voted(0.2, 0.5, 0.3, patients=16)))
    assert not torch.equal(chances(module, voted(0.2, 0.5, 0.3)), chances(module, voted(0.2, 0.5, 0.3, patients=2)))


def test_half_the_weight_is_half_the_power_and_none_is_nothing():
    vote = voted(0.2, 0.5, 0.3, patients=1)
    expected = (OWN + NETWORK_DOUBT) * (torch.tensor([0.2, 0.5, 0.3]) + VOTE_DOUBT) ** (POWER / 2)
    torch.testing.assert_close(chances(product(0.5), vote), expected / expected.sum(), rtol=1e-4, atol=1e-5)
    logits = OWN.log()[None, :, None, None]
    assert torch.equal(product(0.0)(logits, vote), logits)
    assert torch.equal(product()(logits, voted(0.2, 0.5, 0.3, found=0.0)), logits)


def test_an_organ_that_the_network_denies_everywhere_is_found_by_a_vote_that_many_patients_agree_on():
    logits = torch.tensor([20.0, 0.0, 0.0])[None, :, None, None]
    assert product()(logits, voted(0.0, 1.0, 0.0, patients=1)).argmax() == 0
    assert product()(logits, voted(0.0, 1.0, 0.0, patients=16)).argmax() == 1
    assert product()(logits, voted(0.3, 0.7, 0.0, patients=16)).argmax() == 0


def test_a_class_that_nobody_annotates_keeps_its_chance_beside_the_background():
    annotated = torch.tensor([[[True, True, False]]])
    seen = chances(product(), voted(0.1, 0.9, 0.0, annotated=annotated))
    own = OWN + NETWORK_DOUBT
    assert float(seen[2] / seen[0]) == pytest.approx(float(own[2] / own[0]), rel=1e-4)
    assert float(seen[1] / seen[0]) == pytest.approx(float(own[1] / own[0]) * (0.92 / 0.12) ** POWER, rel=1e-3)
    every = chances(product(), voted(0.1, 0.9, 0.0))
    assert float(every[2] / every[0]) == pytest.approx(float(own[2] / own[0]) * (0.02 / 0.12) ** POWER, rel=1e-3)


def test_a_class_whose_vote_cannot_be_trusted_keeps_its_chance_beside_the_background():
    own = OWN + NETWORK_DOUBT
    for trust, share in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        seen = chances(product(), voted(0.1, 0.2, 0.7, trust=torch.tensor([1.0, 1.0, trust])))
        assert float(seen[2] / seen[0]) == pytest.approx(
            float(own[2] / own[0]) * (0.72 / 0.12) ** (POWER * share), rel=1e-3
        )
        assert float(seen[1] / seen[0]) == pytest.approx(float(own[1] / own[0]) * (0.22 / 0.12) ** POWER, rel=1e-3)
    assert torch.equal(
        chances(product(), voted(0.1, 0.2, 0.7, trust=torch.tensor([1.0, 0.5]))),
        chances(product(), voted(0.1, 0.2, 0.7, trust=torch.tensor([1.0, 0.5, 1.0]))),
    )


def test_where_no_organ_can_be_trusted_the_network_stands_as_it_is():
    logits = OWN.log()[None, :, None, None]
    for trust, heeded in (([1.0, 0.0, 0.0], False), ([1.0, 0.0, 0.1], True), ([1.0, 0.0], True)):
        seen = product()(logits, voted(0.1, 0.2, 0.7, trust=torch.tensor(trust)))
        assert torch.equal(seen, logits) is not heeded


def test_a_vote_for_an_organ_counts_as_often_as_its_boost():
    """Of 0.4, 0.5 and 0.1 twice over: 0.4, 1.0 and 0.2 of 1.6."""
    twice = chances(product(), voted(0.4, 0.5, 0.1, boost=2.0))
    torch.testing.assert_close(twice, chances(product(), voted(0.25, 0.625, 0.125)), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(twice, chances(product(), voted(0.4, 0.5, 0.1)), rtol=1e-2)


def test_of_fewer_neighbours_a_vote_is_the_more_doubted():
    """Of eight a third as many as it is meant for, so three times the doubt; of one it is 0.48: 1.48 against 0.48."""
    for neighbours, doubt in ((MANY, VOTE_DOUBT), (8, 3 * VOTE_DOUBT), (1, 0.48)):
        expected = (OWN + NETWORK_DOUBT) * (torch.tensor([0.0, 1.0, 0.0]) + doubt) ** POWER
        seen = chances(product(), voted(0.0, 1.0, 0.0, patients=1, neighbours=torch.tensor([neighbours])))
        torch.testing.assert_close(seen, expected / expected.sum(), rtol=1e-3, atol=1e-5)
    unknown, many = (chances(product(), voted(0.2, 0.5, 0.3, neighbours=n)) for n in (None, torch.tensor([MANY])))
    assert torch.equal(unknown, many)


@pytest.mark.parametrize("carried", [True, False])
def test_slices_one_after_the_other_are_multiplied_as_all_at_once(carried):
    """Where nothing but the result is wanted a CPU takes them one by one."""
    generator = torch.Generator().manual_seed(0)
    logits, vote = (torch.randn(3, 3, 8, 8, generator=generator) for _ in range(2))
    supports = Supports(
        torch.randint(0, 3, (3, 2, 8, 8), generator=generator).to(torch.uint8),
        torch.tensor([[0.7, 0.3], [0.0, 0.0], [0.2, 0.8]]),
        annotated=torch.tensor([[[True, True, False]] * 2, [[True] * 3] * 2, [[True, False, True]] * 2]),
        vote=vote.softmax(1) if carried else None,
        patients=4,
        trust=torch.tensor([1.0, 0.5]),
        boost=2.0,
        neighbours=torch.tensor([2, 0, 2]),
    )
    together = product()(logits, supports)
    with torch.no_grad():
        apart = product()(logits, supports)
    assert torch.equal(apart, together)
    assert torch.equal(apart[1], logits[1])
    assert not torch.allclose(apart[0], logits[0])


def make(seed=0, **options):
    torch.manual_seed(seed)
    return Segmenter(CLASSES, image_size=SIZE, lora={"rank": 2}, **options).eval()


def image():
    return torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def near():
    labels = torch.randint(0, CLASSES + 1, (1, 2, SIZE, SIZE), generator=torch.Generator().manual_seed(2))
    return Supports(labels.to(torch.uint8), torch.tensor([[0.7, 0.3]]), patients=4)


@pytest.mark.parametrize("detail", [True, False])
@torch.no_grad()
def test_it_is_the_default_and_multiplies_what_the_whole_network_gives(detail):
    network = make(detail=detail)
    assert network.about["fusion"] == "vote_product"
    assert not network.fusion.learns
    network.fusion.vote_product.weight.fill_(1.0)
    plain = network(image())
    steered = network(image(), supports=near())
    assert torch.equal(steered, network.fusion.vote_product(plain, near()))
    assert (steered - plain).abs().max() > math.log(2)
    network.train()
    assert torch.equal(network(image(), supports=near()), network(image()))


def test_with_a_base_its_weight_is_kept_with_what_trains(tmp_path):
    from ragsam.networks.sam import build_sam

    torch.save(build_sam("vit_tiny", image_size=SIZE).state_dict(), tmp_path / "base.pth")
    trained, fresh = (make(seed, base=tmp_path / "base.pth") for seed in (1, 2))
    trained.fusion.vote_product.weight.fill_(0.35)
    trained.fusion.vote_product.patients.fill_(7)
    fresh.load_trainable_state(trained.trainable_state())
    assert torch.equal(fresh.fusion.vote_product.weight, torch.tensor(0.35))
    assert torch.equal(fresh(image(), supports=near()), trained(image(), supports=near()))


def test_a_network_that_learns_from_its_supports_too_is_multiplied_once_trained():
    network = make(fusion="vote_product+label_prior")
    assert network.fusion.learns
    torch.nn.init.normal_(network.fusion.label_prior.to_logits.weight)
    with torch.no_grad():
        learnt = network(image(), supports=near())
        network.fusion.vote_product.weight.fill_(1.0)
        assert torch.equal(network(image(), supports=near()), network.fusion.vote_product(learnt, near()))
