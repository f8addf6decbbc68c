"""The linear layer by oneDNN against PyTorch's own: values, gradients, what is kept, and where it stands back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.backends import mkldnn
from torch.utils.flop_counter import FlopCounterMode

from ragsam.networks import linear
from ragsam.networks.linear import Linear

by_onednn = pytest.mark.skipif(linear._ONEDNN is None, reason="this PyTorch has no oneDNN")


def _pair(inputs, outputs, *, bias=True):
    ours = Linear(inputs, outputs, bias=bias)
    plain = nn.Linear(inputs, outputs, bias=bias)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@by_onednn
@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 5), max_size=3), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans())
def test_values_and_gradients_are_those_of_pytorch(shape, inputs, outputs, bias, frozen):
    torch.manual_seed(0)
    ours, plain = _pair(inputs, outputs, bias=bias)
    for layer in (ours, plain):
        layer.weight.requires_grad_(not frozen)
    x = torch.randn(*shape, inputs)
    given_x = [x.clone().requires_grad_() for _ in range(2)]
    out, wanted = ours(given_x[0]), plain(given_x[1])
    assert "Product" in str(out.grad_fn.next_functions)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    gradient = torch.randn(*out.shape)
    out.backward(gradient)
    wanted.backward(gradient)
    torch.testing.assert_close(given_x[0].grad, given_x[1].grad, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@by_onednn
def test_a_view_that_is_not_contiguous_and_a_frozen_layer_that_keeps_no_input():
    torch.manual_seed(0)
    ours, plain = _pair(6, 8)
    x = torch.randn(6, 5, 4).permute(2, 1, 0)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-5)
    ours.requires_grad_(False)
    kept = ours(torch.randn(3, 6, requires_grad=True)).grad_fn.next_functions[0][0].saved_tensors
    assert [tensor is None or tuple(tensor.shape) for tensor in kept] == [True, (8, 6)]


@by_onednn
def test_its_result_may_be_written_into():
    torch.manual_seed(0)
    gradients = []
    for layer in _pair(6, 8):
        out = layer(torch.ones(2, 5, 6))
        out[..., :3] *= 2
        out.sum().backward()
        gradients.append(layer.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@by_onednn
def test_flops_are_counted():
    with FlopCounterMode(display=False) as counter:
        Linear(6, 8)(torch.ones(2, 5, 6))
    assert counter.get_total_flops() == 2 * 10 * 6 * 8


@pytest.mark.parametrize("case", ["double", "autocast", "switched off", "traced", "empty"])
def test_elsewhere_it_is_pytorchs_own_to_the_bit(case):
    torch.manual_seed(0)
    ours, plain = _pair(6, 8)
    x = torch.randn(0 if case == "empty" else 5, 6)
    if case == "double":
        ours, plain, x = ours.double(), plain.double(), x.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"), mkldnn.flags(case != "switched off"):
        if case == "traced":
            ours, plain = torch.jit.trace(ours, x), torch.jit.trace(plain, x)
            assert "Product" not in str(ours.graph)
        assert torch.equal(ours(x), plain(x))
