"""Networks made of tensors alone give what the network gives: with supports, without, and for prompts."""

import copy

import pytest
import torch
from torch import nn

from ragsam.networks import Segmenter, Supports
from ragsam.networks.deployable import (
    BOTTOM_RIGHT,
    TOP_LEFT,
    Decoder,
    Encoder,
    PromptedDecoder,
    Whole,
    example_inputs,
    example_prompts,
    prepare,
    stem_names,
)
from ragsam.networks.prompts import INSIDE, OUTSIDE, PADDING, BoxPrompts, PointPrompts, Prompts
from ragsam.networks.supports import label_prior

SIZE, CLASSES = 32, 2


def trained(**options):
    """A network whose zeros have moved, as training would move them, and the same prepared."""
    torch.manual_seed(0)
    network = Segmenter(CLASSES, image_size=SIZE, **{"lora": {"rank": 2}, "fusion": "label_prior", **options}).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network, prepare(copy.deepcopy(network))


def neighbours(weights):
    labels = torch.randint(0, CLASSES + 1, (2, 2, SIZE, SIZE), generator=torch.Generator().manual_seed(3))
    return Supports(labels.to(torch.uint8), torch.tensor(weights))


@pytest.mark.parametrize("options", [{}, {"detail": False}, {"frequency": {}, "adapter": {}, "decoder_lora": {}}])
@torch.no_grad()
def test_a_vote_stands_for_supports(options):
    network, ready = trained(**options)
    image, _ = example_inputs(network, 2)
    supports = neighbours([[0.7, 0.3], [0.0, 0.0]])
    vote = label_prior(supports, CLASSES + 1)
    expected = network(image, supports=supports)
    torch.testing.assert_close(Whole(ready)(image, vote), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(Decoder(ready)(*Encoder(ready)(image), vote), expected, rtol=0, atol=1e-5)
    alone = network(image)
    torch.testing.assert_close(Whole(ready)(image, vote)[1], alone[1], rtol=0, atol=1e-5)
    assert not torch.allclose(expected[0], alone[0], atol=1e-3)
    torch.testing.assert_close(Whole(ready)(image), alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_network_without_a_fusion_takes_slices_alone():
    network, ready = trained(fusion=None, detail=False)
    (image,) = example_inputs(network, 2)
    assert stem_names(network) == []
    (embedding,) = Encoder(ready)(image)
    torch.testing.assert_close(Decoder(ready)(embedding), network(image), rtol=0, atol=1e-5)


def test_the_encoders_outputs_have_names():
    network, ready = trained()
    image, _ = example_inputs(network, 1)
    assert len(Encoder(ready)(image)) == 1 + len(stem_names(network))
    assert stem_names(network) == ["stem_1", "stem_2", "stem_4"]


def test_examples_cover_what_differs():
    network, _ = trained(prompts="trained")
    assert network.answers_prompts
    image, vote = example_inputs(network, 3, 5)
    assert image.shape == (3, 5, SIZE, SIZE)
    torch.testing.assert_close(vote.sum(1), torch.tensor([1.0, 1.0, 0.0])[:, None, None].expand(3, SIZE, SIZE))
    prompts = example_prompts(network, 3)
    assert set(prompts["kind"].flatten().tolist()) == {PADDING, OUTSIDE, INSIDE, TOP_LEFT, BOTTOM_RIGHT}
    assert prompts["has_mask"].tolist() == [1, 1, 0]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("boxed", [True, False])
@torch.no_grad()
def test_a_box_is_two_points(boxed, masked):
    network, ready = trained(prompts="trained")
    image, _ = example_inputs(network, 2)
    row, column = torch.tensor([[5.0, 20.0], [9.0, 30.0]]), torch.tensor([[8.0, 11.0], [25.0, 2.0]])
    kind = torch.tensor([[INSIDE, OUTSIDE], [INSIDE, INSIDE]])
    box = BoxPrompts(*torch.tensor([[2.0, 4.0, 25.0, 27.0], [1.0, 0.0, 30.0, 22.0]]).T)
    mask = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    prompts = Prompts(PointPrompts(row, column, kind), box if boxed else None, mask if masked else None)
    expected = network.decode_prompted(network.embed(image), prompts)
    more = ([box.top, box.bottom], [box.left, box.right], [TOP_LEFT, BOTTOM_RIGHT])
    if not boxed:
        more = ([torch.zeros(2)], [torch.zeros(2)], [PADDING])
    row, column = (torch.cat([a, torch.stack(b, 1)], 1) for a, b in zip((row, column), more[:2], strict=True))
    kind = torch.cat([kind, torch.tensor([more[2]] * 2)], 1)
    has_mask = torch.full((2,), float(masked))
    found = PromptedDecoder(ready)(*Encoder(ready)(image), row, column, kind, mask, has_mask)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
