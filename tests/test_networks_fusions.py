"""Fusions: nothing at first, and then what the neighbours say; what was removed is told."""

import copy

import pytest
import torch
from torch import nn

from ragsam.errors import InputError
from ragsam.networks import Segmenter, Supports
from ragsam.networks.deployable import Whole, prepare
from ragsam.networks.fusions import FUSIONS, REMOVED, fusion_names
from ragsam.networks.supports import label_prior
from ragsam.retrieval import Retriever

SIZE, CLASSES = 32, 2
EVERY = "+".join(FUSIONS)


def make(fusion, **options):
    torch.manual_seed(0)
    return Segmenter(CLASSES, image_size=SIZE, fusion=fusion, lora={"rank": 2}, **options).eval()


def wake_zeros(module):
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    if getattr(module, "vote_product", None) is not None:
        module.vote_product.weight.fill_(1.0)


def slices():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def supports(weights, seed=2):
    generator, weights = torch.Generator().manual_seed(seed), torch.tensor(weights)
    labels = torch.randint(0, CLASSES + 1, (*weights.shape, SIZE, SIZE), generator=generator).to(torch.uint8)
    return Supports(labels, weights)


@pytest.mark.parametrize("fusion", [*FUSIONS, EVERY])
@torch.no_grad()
def test_a_fusion_starts_at_nothing_and_never_touches_a_query_without_neighbours(fusion):
    network, image, near = make(fusion), slices(), supports([[0.0, 0.0], [0.7, 0.3]])
    plain = network(image)
    assert torch.equal(network(image, supports=near), plain)
    wake_zeros(network.fusion)
    steered = network(image, supports=near)
    assert torch.equal(steered[0], plain[0])
    assert (steered[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", [*FUSIONS, EVERY])
@torch.no_grad()
def test_with_supports_and_without_at_once(fusion):
    network, image, near = make(fusion), slices(), supports([[0.6, 0.4], [0.7, 0.3]])
    wake_zeros(network.fusion)
    both = network(image, supports=near, both=True)
    assert torch.equal(both.steered, network(image, supports=near))
    assert torch.equal(both.plain, network(image))


def test_every_fusion_learns():
    network = make(EVERY).train()
    wake_zeros(network.fusion)
    network(slices(), supports=supports([[0.6, 0.4], [0.7, 0.3]])).square().mean().backward()
    still = [name for name, p in network.fusion.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_supports_move_to_a_device():
    moved = supports([[0.6, 0.4]]).to("meta")
    assert {tensor.device.type for tensor in (moved.labels, moved.weights)} == {"meta"}


@torch.no_grad()
def test_what_is_exported_takes_a_vote():
    network, image = make(EVERY), slices()
    near = supports([[0.6, 0.4], [0.0, 0.0]])
    wake_zeros(network.fusion)
    ready = Whole(prepare(copy.deepcopy(network)))
    vote = label_prior(near, CLASSES + 1)
    torch.testing.assert_close(ready(image, vote), network(image, supports=near), rtol=0, atol=1e-5)
    traced = torch.jit.trace(ready, (image, vote))
    torch.testing.assert_close(traced(image[:1], vote[:1]), network(image, supports=near)[:1], rtol=0, atol=1e-5)


def test_names_are_joined_by_a_plus():
    assert fusion_names(None) == ()
    assert fusion_names("vote_product+label_prior") == ("vote_product", "label_prior")
    for wrong in ("vote", "label_prior+vote", "label_prior+label_prior", "", "label_prior, vote_product"):
        with pytest.raises(ValueError, match="is unknown or named twice; choose of vote_product"):
            fusion_names(wrong)


@pytest.mark.parametrize("name", REMOVED)
def test_what_a_run_of_before_may_name_is_told(name):
    with pytest.raises(InputError, match=f"fusion '{name}' was removed"):
        Segmenter(1, image_size=SIZE, fusion=f"label_prior+{name}")
    Retriever(descriptor="thumbnail", neighbours=8, carry=False, memory=False)
    with pytest.raises(InputError, match="fusion memory was removed"):
        Retriever(descriptor="thumbnail", neighbours=8, carry=False, memory=True)
