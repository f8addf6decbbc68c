"""LoRA: nothing at first, then query and value alone."""

import pytest
import torch
from torch import nn

from ragsam.networks.lora import QueryValueLoRA, add_lora
from ragsam.networks.sam import build_sam


@pytest.fixture
def projection():
    torch.manual_seed(0)
    return nn.Linear(12, 36)


def test_at_first_the_output_is_unchanged_to_the_bit(projection):
    x = torch.randn(2, 5, 5, 12)
    assert torch.equal(QueryValueLoRA(projection, rank=4)(x), projection(x))


def test_the_whole_encoder_is_unchanged_at_first():
    torch.manual_seed(0)
    encoder = build_sam("vit_tiny", image_size=32).image_encoder
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = encoder(image)
        add_lora(encoder, rank=4)
        assert torch.equal(encoder(image), before)


def test_query_and_value_move_and_key_does_not(projection):
    x = torch.randn(3, 12)
    before = projection(x)
    lora = QueryValueLoRA(projection, rank=4)
    nn.init.ones_(lora.query_b.weight)
    after = lora(x)
    assert not torch.allclose(after[:, :12], before[:, :12])
    assert torch.equal(after[:, 12:], before[:, 12:])
    nn.init.ones_(lora.value_b.weight)
    after = lora(x)
    assert torch.equal(after[:, 12:24], before[:, 12:24])
    assert not torch.allclose(after[:, 24:], before[:, 24:])


def test_the_update_by_hand():
    """One feature, rank 1, alpha 2: q = w x + 2 b a x, k = w x, v likewise."""
    qkv = nn.Linear(1, 3, bias=False)
    lora = QueryValueLoRA(qkv, rank=1, alpha=2)
    values = ((qkv, [[1.0], [10.0], [100.0]]), (lora.query_a, [[3.0]]), (lora.query_b, [[5.0]]))
    values += ((lora.value_a, [[7.0]]), (lora.value_b, [[0.5]]))
    for layer, weight in values:
        layer.weight.data = torch.tensor(weight)
    assert lora(torch.tensor([[2.0]])).tolist() == [[2.0 + 2 * 5 * 3 * 2, 20.0, 200.0 + 2 * 0.5 * 7 * 2]]


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (8, 2.0), (1, 0.25)])
def test_the_scale_is_alpha_over_rank(projection, alpha, scale):
    x = torch.randn(3, 12)
    lora = QueryValueLoRA(projection, rank=4, alpha=alpha)
    nn.init.normal_(lora.query_b.weight)
    update = x @ lora.query_a.weight.T @ lora.query_b.weight.T
    torch.testing.assert_close(lora(x)[:, :12], projection(x)[:, :12] + scale * update)


def test_gradients_reach_a_and_b(projection):
    lora = QueryValueLoRA(projection, rank=2)
    lora(torch.randn(3, 12)).square().sum().backward()
    assert lora.query_b.weight.grad.abs().max() > 0
    assert lora.value_b.weight.grad.abs().max() > 0
    assert lora.query_a.weight.grad.abs().max() == 0  # B is still zero


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_each_block_gets_four_times_rank_times_width_parameters(rank):
    sam = build_sam("vit_tiny", image_size=32)
    before = [sum(p.numel() for p in block.parameters()) for block in sam.image_encoder.blocks]
    add_lora(sam.image_encoder, rank=rank)
    after = [sum(p.numel() for p in block.parameters()) for block in sam.image_encoder.blocks]
    assert [now - then for now, then in zip(after, before, strict=True)] == [4 * rank * 192] * 4


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(projection, rank):
    with pytest.raises(ValueError, match=f"rank {rank} is not positive"):
        QueryValueLoRA(projection, rank=rank)
