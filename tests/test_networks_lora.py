"""LoRA: nothing at first, then its own outputs alone; merged and unmerged."""

import pytest
import torch
from torch import nn

from ragsam.networks.lora import (
    LoRALinear,
    add_decoder_lora,
    add_lora,
    lora_layers,
    merge_lora,
    merged_lora,
    unmerge_lora,
)
from ragsam.networks.sam import build_sam

QUERY_VALUE = {"q": slice(0, 12), "v": slice(24, 36)}


@pytest.fixture
def projection():
    torch.manual_seed(0)
    return nn.Linear(12, 36)


@pytest.fixture
def sam():
    torch.manual_seed(0)
    return build_sam("vit_tiny", image_size=32)


def wake(network):
    """Give every update some values, as training would."""
    for layer in lora_layers(network):
        for update in layer.updates.values():
            nn.init.normal_(update.b.weight, std=0.1)


def test_at_first_the_output_is_unchanged_to_the_bit(projection):
    x = torch.randn(2, 5, 5, 12)
    assert torch.equal(LoRALinear(projection, QUERY_VALUE, rank=4)(x), projection(x))


@pytest.mark.parametrize("targets", [("q", "v"), ("k",), ("proj", "mlp"), ("q", "k", "v", "proj", "mlp")])
def test_the_whole_encoder_is_unchanged_at_first_and_moves_when_trained(sam, targets):
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = sam.image_encoder(image)
        add_lora(sam.image_encoder, targets=targets, rank=4)
        assert torch.equal(sam.image_encoder(image), before)
        wake(sam)
        assert not torch.allclose(sam.image_encoder(image), before, atol=1e-3)


def test_query_and_value_move_and_key_does_not(projection):
    x = torch.randn(3, 12)
    before = projection(x)
    lora = LoRALinear(projection, QUERY_VALUE, rank=4)
    nn.init.ones_(lora.updates["q"].b.weight)
    after = lora(x)
    assert not torch.allclose(after[:, :12], before[:, :12])
    assert torch.equal(after[:, 12:], before[:, 12:])
    nn.init.ones_(lora.updates["v"].b.weight)
    after = lora(x)
    assert torch.equal(after[:, 12:24], before[:, 12:24])
    assert not torch.allclose(after[:, 24:], before[:, 24:])


def by_hand():
    """One feature, rank 1, alpha 2: q = w x + 2 b a x, k = w x, v likewise."""
    qkv = nn.Linear(1, 3, bias=False)
    lora = LoRALinear(qkv, {"q": slice(0, 1), "v": slice(2, 3)}, rank=1, alpha=2)
    values = ((qkv, [[1.0], [10.0], [100.0]]), (lora.updates["q"].a, [[3.0]]), (lora.updates["q"].b, [[5.0]]))
    values += ((lora.updates["v"].a, [[7.0]]), (lora.updates["v"].b, [[0.5]]))
    for layer, weight in values:
        layer.weight.data = torch.tensor(weight)
    return lora


def test_the_update_by_hand():
    assert by_hand()(torch.tensor([[2.0]])).tolist() == [[2.0 + 2 * 5 * 3 * 2, 20.0, 200.0 + 2 * 0.5 * 7 * 2]]


def test_merging_by_hand_and_back():
    lora = by_hand()
    lora.merge()
    assert lora.linear.weight.tolist() == [[31.0], [10.0], [107.0]]
    assert lora(torch.tensor([[2.0]])).tolist() == [[62.0, 20.0, 214.0]]
    lora.merge()  # once is enough
    assert lora.linear.weight.tolist() == [[31.0], [10.0], [107.0]]
    lora.unmerge()
    assert lora.linear.weight.tolist() == [[1.0], [10.0], [100.0]]


def test_a_merged_network_gives_the_same_and_unmerging_is_exact(sam):
    add_lora(sam.image_encoder, targets=("q", "k", "v", "proj", "mlp"), rank=3, alpha=5)
    add_decoder_lora(sam.mask_decoder.transformer, rank=2)
    wake(sam)
    image, weights = torch.rand(1, 3, 32, 32), {k: v.clone() for k, v in sam.state_dict().items()}
    with torch.no_grad():
        expected = sam.image_encoder(image)
        merge_lora(sam)
        assert all(layer.merged for layer in lora_layers(sam))
        torch.testing.assert_close(sam.image_encoder(image), expected, rtol=0, atol=1e-4)
        unmerge_lora(sam)
        assert torch.equal(sam.image_encoder(image), expected)
    assert all(torch.equal(value, weights[key]) for key, value in sam.state_dict().items())


def test_merged_for_a_while_even_if_it_fails():
    lora = by_hand()
    with merged_lora(lora):
        assert lora.linear.weight.tolist() == [[31.0], [10.0], [107.0]]
    assert lora.linear.weight.tolist() == [[1.0], [10.0], [100.0]]
    with pytest.raises(RuntimeError, match="mat1"), merged_lora(lora):
        lora(torch.ones(1, 2))
    assert lora.linear.weight.tolist() == [[1.0], [10.0], [100.0]]
    lora.merge()
    with merged_lora(lora):
        pass
    assert lora.merged


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (8, 2.0), (1, 0.25)])
def test_the_scale_is_alpha_over_rank(projection, alpha, scale):
    x = torch.randn(3, 12)
    lora = LoRALinear(projection, QUERY_VALUE, rank=4, alpha=alpha)
    nn.init.normal_(lora.updates["q"].b.weight)
    update = x @ lora.updates["q"].a.weight.T @ lora.updates["q"].b.weight.T
    torch.testing.assert_close(lora(x)[:, :12], projection(x)[:, :12] + scale * update)


def test_dropout_is_on_the_update_alone_and_only_while_training(projection):
    lora, x = LoRALinear(projection, QUERY_VALUE, rank=4, dropout=1.0), torch.randn(3, 12)
    nn.init.normal_(lora.updates["q"].b.weight)
    assert torch.equal(lora.train()(x), projection(x))
    assert not torch.allclose(lora.eval()(x), projection(x), atol=1e-3)


def test_gradients_reach_a_and_b(projection):
    lora = LoRALinear(projection, QUERY_VALUE, rank=2)
    lora(torch.randn(3, 12)).square().sum().backward()
    for update in lora.updates.values():
        assert update.b.weight.grad.abs().max() > 0
        assert update.a.weight.grad.abs().max() == 0  # B is still zero


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_each_block_gets_four_times_rank_times_width_parameters(sam, rank):
    before = [sum(p.numel() for p in block.parameters()) for block in sam.image_encoder.blocks]
    add_lora(sam.image_encoder, rank=rank)
    after = [sum(p.numel() for p in block.parameters()) for block in sam.image_encoder.blocks]
    assert [now - then for now, then in zip(after, before, strict=True)] == [4 * rank * 192] * 4


def test_only_the_chosen_blocks_are_updated(sam):
    add_lora(sam.image_encoder, blocks=[1, 3])
    assert [isinstance(block.attn.qkv, LoRALinear) for block in sam.image_encoder.blocks] == [False, True, False, True]


def test_the_decoder_gets_query_and_value_of_its_seven_attentions(sam):
    add_decoder_lora(sam.mask_decoder.transformer, rank=4)
    layers = [name for name, module in sam.named_modules() if isinstance(module, LoRALinear)]
    assert len(layers) == 14
    assert all(name.startswith("mask_decoder.transformer.") for name in layers)
    assert all(name.endswith(("q_proj", "v_proj")) for name in layers)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(projection, rank):
    with pytest.raises(ValueError, match=f"rank {rank} is not positive"):
        LoRALinear(projection, QUERY_VALUE, rank=rank)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"targets": []}, "choose some of"), ({"targets": ["x"]}, "choose some of"), ({"blocks": [4]}, "blocks 0 to 3")],
)
def test_targets_and_blocks_that_are_not_there_are_refused(sam, options, words):
    with pytest.raises(ValueError, match=words):
        add_lora(sam.image_encoder, **options)
