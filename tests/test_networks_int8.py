"""The encoder's linear layers in int8: worked out by hand, the bound that rounding has, and that nothing stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ragsam.networks import Segmenter
from ragsam.networks.int8 import LARGEST, int8_linears, int8_product, rounded
from ragsam.networks.linear import Linear


def test_whole_numbers_are_multiplied_exactly():
    x = torch.tensor([[127.0, -1.0, 3.0], [0.0, 0.0, 0.0]])  # a step of 1, and a token of nothing
    weight = torch.tensor([[1.0, 127.0, 2.0], [2.54, 0.02, -1.0]])  # steps of 1 and 0.02
    values, steps = rounded(weight)
    assert values.tolist() == [[1, 127, 2], [127, 1, -50]]
    out = int8_product(x[None], values.t().contiguous(), steps[:, 0], torch.tensor([0.5, 0.25]))
    assert out.shape == (1, 2, 2)
    torch.testing.assert_close(out, torch.tensor([[[6.5, 319.81], [0.5, 0.25]]]))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**16), st.floats(1e-6, 1e6))
def test_a_product_is_as_near_as_half_a_step_of_either_side_lets_it_be(tokens, inputs, outputs, seed, size):
    generator = torch.Generator().manual_seed(seed)
    x = size * torch.randn(tokens, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    values, steps = rounded(weight)
    assert values.abs().max() <= LARGEST
    out = int8_product(x, values.t().contiguous(), steps[:, 0], None)
    step = x.abs().amax(1, keepdim=True) / LARGEST
    bound = (
        step / 2 * weight.abs().sum(1) + x.abs().sum(1, keepdim=True) * steps.t() / 2 + inputs * step * steps.t() / 4
    )
    assert ((out - x @ weight.t()).abs() <= 1.001 * bound + 1e-4 * size).all()


@torch.no_grad()
def test_a_network_is_near_itself_and_afterwards_the_same_to_the_bit():
    torch.manual_seed(0)
    network = Segmenter(2, image_size=32, detail=False, peft="lora", lora={"rank": 4, "targets": ["q", "v"]}).eval()
    for name, parameter in network.named_parameters():
        if ".b.weight" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    image = torch.rand(2, 3, 32, 32)
    plain, state = network.sam.image_encoder(image), {k: v.clone() for k, v in network.state_dict().items()}
    with int8_linears(network):
        near = network.sam.image_encoder(image)
    assert 0 < (near - plain).norm() < 0.03 * plain.norm()
    with pytest.raises(RuntimeError, match="channels"), int8_linears(network):
        network.sam.image_encoder(image[:, :2])
    assert torch.equal(network.sam.image_encoder(image), plain)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    layers = [module for module in network.modules() if isinstance(module, Linear)]
    assert len(layers) == 4 * len(network.sam.image_encoder.blocks)
    assert not any("forward" in vars(layer) for layer in layers)
