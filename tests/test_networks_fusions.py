"""Fusions that enter before the decoder: nothing at first, and then what the neighbours say, worked out by hand."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ragsam.errors import InputError
from ragsam.networks import Segmenter, Supports
from ragsam.networks.deployable import Whole, prepare
from ragsam.networks.fusions import FUSIONS, fusion_names
from ragsam.networks.logit_prior import LogitPriorFusion
from ragsam.networks.memory import MemoryAttention
from ragsam.networks.prototypes import PrototypeTokens
from ragsam.networks.sam import build_sam
from ragsam.networks.supports import Memory, label_prior
from ragsam.networks.two_way import attend, attentions

SIZE, CLASSES, GRID = 32, 2, 4
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
    embeddings = torch.randn(*weights.shape, 256, GRID, GRID, generator=generator)
    return Supports(labels, weights, memory=Memory(embeddings.half(), labels, weights))


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    return build_sam("vit_tiny", image_size=SIZE).mask_decoder.transformer.eval()


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


@pytest.mark.parametrize("fusion", ["vote_product", "label_prior", "logit_prior", EVERY])
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


@torch.no_grad()
def test_a_vote_reaches_the_logits_as_far_as_the_features_trust_it():
    fusion, near = LogitPriorFusion(2, 1), Supports.of_vote(torch.tensor([[[[0.25]], [[0.75]]]]), torch.ones(1))
    features = torch.ones(1, 1, 1, 1)
    assert not fusion(features, near).any()
    nn.init.dirac_(fusion.to_logits.weight)  # each class's own vote
    torch.testing.assert_close(fusion(features, near).flatten(), torch.tensor([2.5, 7.5]))
    fusion.trust.weight[1] = math.log(3)  # 0.75 of the class 1, of 0.5 at first; a feature of -1 gives 0.25
    torch.testing.assert_close(fusion(features, near).flatten(), torch.tensor([2.5, 1.5 * 7.5]))
    torch.testing.assert_close(fusion(-features, near).flatten(), torch.tensor([2.5, 0.5 * 7.5]))
    nobody = Supports.of_vote(near.vote, torch.zeros(1))
    assert not fusion(features, nobody).any()


def test_a_vote_to_the_logits_alone_has_the_last_block_run_once():
    """With `label_prior` it runs for the steered features and for the plain ones."""
    runs = {}
    for fusion in ("label_prior", "logit_prior"):
        network, seen = make(fusion), []
        network.detail.block.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        network(slices(), supports=supports([[0.6, 0.4], [0.7, 0.3]]), both=True)
        runs[fusion] = len(seen)
    assert runs == {"label_prior": 2, "logit_prior": 1}


@torch.no_grad()
def test_a_bias_of_zeros_changes_no_bit_and_a_great_one_decides(transformer):
    generator = torch.Generator().manual_seed(3)
    embedding, position = torch.randn(2, 2, 256, GRID, GRID, generator=generator).unbind(0)
    tokens = torch.randn(2, 3, 256, generator=generator)
    bias = torch.zeros(attentions(transformer), 2, transformer.num_heads, 3, GRID * GRID)
    expected = transformer(embedding, position, tokens)
    for got, want in zip(attend(transformer, embedding, position, tokens, bias), expected, strict=True):
        assert torch.equal(got, want)
    bias[..., 5] = 1e4  # every token sees the sixth place alone: what the others hold does not reach the tokens
    alone = attend(transformer, embedding, position, tokens, bias[:1].expand_as(bias))[0]
    assert not torch.allclose(alone, expected[0], atol=1e-3)
    seen = []
    handle = transformer.layers[0].cross_attn_token_to_image.out_proj.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    attend(transformer, embedding, position, tokens, bias)
    handle.remove()
    values = transformer.layers[0].cross_attn_token_to_image.v_proj
    torch.testing.assert_close(seen[0], values(embedding.flatten(2)[:, None, :, 5]).expand_as(seen[0]))


def test_a_prototype_is_what_the_votes_places_look_like(transformer):
    """Two places of two channels: class 1 is voted for at the second alone, class 2 at both, background nowhere."""
    prototypes = PrototypeTokens(transformer)
    prototypes.to_token = nn.Identity()
    nn.init.ones_(prototypes.gain)
    embedding = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])
    vote = torch.tensor([[[[0.0, 0.0]], [[0.0, 0.5]], [[0.5, 0.5]]]])
    tokens, bias = prototypes(embedding, vote)
    assert tokens.tolist() == [[[0.0, 0.0], [0.0, 2.0], [1.5, 1.0]]]
    length = 3.25**0.5
    expected = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.5 / length, 1 / length]])
    assert bias.shape == (attentions(transformer), 1, transformer.num_heads, 3, 2)
    torch.testing.assert_close(bias, expected.expand_as(bias))


@torch.no_grad()
def test_memory_heeds_the_weights_and_not_the_order():
    torch.manual_seed(0)
    memory = MemoryAttention(CLASSES + 1, 256)
    wake_zeros(memory)
    embedding, position = torch.randn(2, 1, 256, GRID, GRID).unbind(0)
    near = supports([[0.7, 0.3, 0.0]]).memory
    seen = memory(embedding, position, near)
    assert seen.shape == embedding.shape
    turned = Memory(*(tensor[:, [2, 0, 1]] for tensor in near))
    torch.testing.assert_close(memory(embedding, position, turned), seen)
    other = near._replace(embeddings=near.embeddings.clone())
    other.embeddings[:, 2] += torch.randn(256, 1, 1)  # of the one without weight
    torch.testing.assert_close(memory(embedding, position, other), seen, atol=1e-4, rtol=0)
    other.embeddings[:, 0] += torch.randn(256, 1, 1)
    assert not torch.allclose(memory(embedding, position, other), seen, atol=1e-3)
    relabelled = near._replace(labels=(near.labels + 1) % 3)
    assert not torch.allclose(memory(embedding, position, relabelled), seen, atol=1e-3)
    assert not memory(embedding, position, near._replace(weights=torch.zeros(1, 3))).any()


@torch.no_grad()
def test_memory_without_neighbours_is_left_out():
    network, image, near = make("memory"), slices(), supports([[0.6, 0.4], [0.7, 0.3]])
    wake_zeros(network.fusion)
    assert torch.equal(network(image, supports=replace(near, memory=None)), network(image))
    moved = near.to("meta")
    assert {tensor.device.type for tensor in (moved.labels, moved.weights, *moved.memory)} == {"meta"}


@torch.no_grad()
def test_what_is_exported_takes_a_vote_or_is_refused():
    network, image = make("vote_product+label_prior+logit_prior+dense_prior+prototypes"), slices()
    near = supports([[0.6, 0.4], [0.0, 0.0]])
    wake_zeros(network.fusion)
    ready = Whole(prepare(copy.deepcopy(network)))
    vote = label_prior(near, CLASSES + 1)
    torch.testing.assert_close(ready(image, vote), network(image, supports=near), rtol=0, atol=1e-5)
    traced = torch.jit.trace(ready, (image, vote))
    torch.testing.assert_close(traced(image[:1], vote[:1]), network(image, supports=near)[:1], rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="memory looks at neighbours' embeddings"):
        prepare(make("memory"))


def test_names_are_joined_by_a_plus():
    assert fusion_names(None) == ()
    assert fusion_names("memory+label_prior") == ("memory", "label_prior")
    for wrong in ("vote", "memory+vote", "memory+memory", "", "label_prior, memory"):
        with pytest.raises(ValueError, match="is unknown or named twice; choose of vote_product"):
            fusion_names(wrong)
    with pytest.raises(ValueError, match="no token a class"):
        Segmenter(1, image_size=SIZE, fusion="prototypes", mask_tokens=4)
