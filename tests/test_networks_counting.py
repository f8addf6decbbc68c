"""What a network consists of: every parameter and every product in one part, and the arithmetic worked out by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ragsam.networks import Segmenter
from ragsam.networks.counting import PARTS, count_parts

EVERYTHING = {
    "lora": {"rank": 2},
    "decoder_lora": {"rank": 2},
    "adapter": {"space": True, "mlp": True, "depth": True},
    "frequency": {},
    "prompts": "trained",
    "fusion": "label_prior",
}


def empty(**options):
    with torch.device("meta"):
        return Segmenter(2, **{"image_size": 32, **options})


@pytest.mark.parametrize("options", [{}, {"detail": False, "fusion": None}, EVERYTHING])
def test_together_the_parts_are_the_whole(options):
    network = empty(**options)
    network.sam.prompt_encoder.requires_grad_(False)
    parts = count_parts(network)
    assert sum(part.trained for part in parts) == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert sum(part.frozen for part in parts) == sum(p.numel() for p in network.sam.prompt_encoder.parameters())
    if options.get("fusion", "") is None:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 32, 32))
        assert sum(part.flops for part in parts) == counter.get_total_flops()


def test_there_is_a_line_for_every_part_in_order():
    assert [part.name for part in count_parts(empty(**EVERYTHING))] == list(PARTS)
    names = [part.name for part in count_parts(empty(detail=False, fusion=None))]
    assert names == ["image encoder", "neck", "prompt encoder", "mask decoder"]


def test_a_part_that_is_not_known_is_its_own():
    network = empty()
    network.memory = nn.Linear(3, 4)
    assert (count_parts(network)[-1].name, count_parts(network)[-1].trained) == ("memory", 16)


def test_a_network_with_weights_counts_the_same():
    options = {"image_size": 32, "lora": {"rank": 2}, "detail": False}
    assert count_parts(Segmenter(2, **options)) == count_parts(empty(**options))


def test_the_encoders_arithmetic_by_hand():
    """ViT-B at 512: 32 x 32 tokens of 768 channels, 12 heads; 8 blocks in windows of 14 x 14, 4 over the grid.

    Of the windows 4 lie on the grid, 4 have 14 x 4 tokens on it and one 4 x 4; what is padded is one row, one column.
    """
    network = empty(backbone="vit_b", image_size=512, detail=False, fusion=None)
    flops = {part.name: part.flops for part in count_parts(network)}
    width, heads, tokens = 768, 12, 32 * 32
    total = 2 * 3 * 16 * 16 * width * tokens  # patch embedding
    products = 2 * 4 * width * width * tokens  # query, key, value, projection
    mlp = 2 * 2 * width * 4 * width * tokens
    windows = [(4, (14, 14), (14, 14)), (4, (14, 4), (14, 5)), (1, (4, 4), (5, 5))]
    for side, blocks, parts in ((14, 8, windows), (32, 4, [(1, (32, 32), (32, 32))])):
        # Queries, keys and values are lengthened by the codes of row and column, see `Attention`.
        attention = sum(
            2 * 2 * heads * count * (q[0] * q[1]) * (k[0] * k[1]) * (width // heads + k[0] + k[1])
            for count, q, k in parts
        )
        positions = 2 * 2 * heads * tokens * side * (width // heads)
        total += blocks * (products + mlp + attention + positions)
    assert flops["image encoder"] == total
    assert flops["neck"] == 2 * tokens * 256 * (width + 9 * 256)


def test_loras_arithmetic_by_hand():
    """Rank 4 on query and value: each token through 768 x 4 and 4 x 768, twice."""
    network = empty(backbone="vit_b", image_size=512, lora={"rank": 4}, detail=False, fusion=None)
    (lora,) = [part for part in count_parts(network) if part.name == "LoRA"]
    assert lora.trained == 12 * 2 * 2 * 4 * 768 == 147_456
    assert lora.flops == 2 * 2 * 2 * 4 * 768 * 12 * 32 * 32


def test_a_pixel_costs_the_same_in_a_larger_slice_but_for_attention_over_all_tokens():
    def flops_a_pixel(side):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            Segmenter(8, image_size=side)(torch.zeros(1, 3, side, side))
        of = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
        everywhere = [of[f"Segmenter.sam.image_encoder.blocks.{index}.attn"] for index in (1, 3)]
        return (of["Segmenter"] - sum(everywhere)) / side**2

    assert flops_a_pixel(1024) == pytest.approx(flops_a_pixel(256), rel=0.01)
