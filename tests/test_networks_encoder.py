"""The image encoder against segment-anything's own, and what is added to it against a plain reading of each."""

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from ragsam.networks import attention
from ragsam.networks.adapter import Adapter, add_adapters
from ragsam.networks.encoder import ImageEncoder
from ragsam.networks.frequency import FrequencyPrompts, high_frequencies
from ragsam.networks.lora import add_lora, lora_layers


def pair(*, img_size, patch_size=16, dim=48, depth=2, heads=3, window=14, global_blocks=(1,)):
    """Return segment-anything's encoder, no tensor of it zero, and ours with its weights."""
    torch.manual_seed(0)
    theirs = ImageEncoderViT(
        img_size=img_size, patch_size=patch_size, embed_dim=dim, depth=depth, num_heads=heads, out_chans=32,
        use_rel_pos=True, window_size=window, global_attn_indexes=global_blocks,
        norm_layer=lambda size: nn.LayerNorm(size, eps=1e-6),
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    ours = ImageEncoder(
        img_size=img_size, patch_size=patch_size, embed_dim=dim, depth=depth, num_heads=heads, out_chans=32,
        window_size=window, global_blocks=global_blocks,
    ).eval()  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize(
    "options",
    [
        {"img_size": 1024},
        {"img_size": 512, "dim": 768, "heads": 12},  # vit_b's width
        {"img_size": 512, "patch_size": 8, "window": 14},
        {"img_size": 240},  # 15: one token more than a window
        {"img_size": 112, "patch_size": 16, "window": 7},  # 7: an odd grid, one window
        {"img_size": 88, "patch_size": 8, "window": 3},  # 11: windows that do not fit
        {"img_size": 64, "patch_size": 8, "window": 0},
        {"img_size": 16, "window": 14},  # a single token
    ],
    ids=str,
)
def test_the_encoder_is_segment_anythings(options):
    theirs, ours = pair(**options)
    image = torch.rand(1, 3, options["img_size"], options["img_size"])
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-4)


@pytest.mark.parametrize("img_size", [240, 512])
def test_training_and_inference_attend_alike(img_size):
    """With gradients the bias is folded into the keys, without it is written out."""
    _, ours = pair(img_size=img_size)
    image = torch.rand(2, 3, img_size, img_size)
    with torch.no_grad():
        plain = ours(image)
    torch.testing.assert_close(ours(image).detach(), plain, rtol=0, atol=1e-5)


def test_a_bias_that_is_written_out_stays_within_its_bound(monkeypatch):
    _, ours = pair(img_size=128, window=0)  # 64 tokens
    image, attend, scores = torch.rand(1, 3, 128, 128), F.scaled_dot_product_attention, []

    def watched(*inputs, attn_mask, **options):
        scores.append(attn_mask.shape[-2] * attn_mask.shape[-1])
        return attend(*inputs, attn_mask=attn_mask, **options)

    with torch.no_grad():
        plain = ours(image)
        monkeypatch.setattr(attention, "SCORES_AT_ONCE", 5 * 64 + 1)
        monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
        torch.testing.assert_close(ours(image), plain, rtol=0, atol=1e-5)
    assert scores == 2 * ([5 * 64] * 12 + [4 * 64])


def test_vit_b_whole_is_segment_anythings():
    theirs, ours = pair(img_size=256, dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11))
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-4)


def test_gradients_are_segment_anythings():
    theirs, ours = pair(img_size=240)
    image = torch.rand(2, 3, 240, 240)
    for encoder in (theirs, ours):
        encoder(image).square().mean().backward()
    for (name, one), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5, msg=name)


def kept_bytes(encoder, run):
    """What a run keeps for the backward pass beside parameters, each tensor once; and what it gives."""
    own = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = run()
    return sum(x.untyped_storage().nbytes() for key, x in kept.items() if key not in own), result


@pytest.mark.parametrize(
    ("tuning", "what", "share"),
    [
        ("all", "attention", 0.85),
        ("all", "mlp", 0.7),
        ("all", "blocks", 0.4),
        ("lora", "attention", 0.8),
        ("lora", "mlp", 0.6),
        ("lora", "blocks", 0.2),
    ],
)
def test_recomputing_gives_the_same_gradients_and_keeps_less(tuning, what, share):
    _, ours = pair(img_size=240)
    if tuning == "all":
        ours.frequency = FrequencyPrompts(48, 2, 16, reduction=8)
        add_adapters(ours, depth=True)
        wake_adapters(ours)
        ours.requires_grad_(True)
    else:
        ours.requires_grad_(False)
        add_lora(ours)
        for layer in lora_layers(ours):
            for update in layer.updates.values():
                torch.nn.init.normal_(update.b.weight, std=0.1)
    ours.train()
    image, kept, gradients = torch.rand(3, 3, 240, 240), [], []
    for option in (None, what):
        ours.checkpoint(option)
        ours.zero_grad()
        size, loss = kept_bytes(ours, lambda: ours(image, stack=3).square().mean())
        kept.append(size)
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in ours.parameters() if parameter.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert kept[1] < share * kept[0], kept


def test_unknown_checkpointing_is_refused():
    _, ours = pair(img_size=64)
    with pytest.raises(ValueError, match="choose attention, mlp, blocks"):
        ours.checkpoint("all")


def test_half_precision_stays_close():
    _, ours = pair(img_size=240)
    image = torch.rand(1, 3, 240, 240)
    with torch.no_grad():
        expected = ours(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = ours(image)
    assert (out - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_adapters_by_hand():
    adapter = Adapter(4)
    adapter.down.weight.data = torch.tensor([[1.0, 2.0, 0.0, 0.0]])
    adapter.down.bias.data = torch.tensor([1.0])
    adapter.up.weight.data = torch.tensor([[1.0], [0.0], [-1.0], [2.0]])
    adapter.up.bias.data = torch.tensor([0.0, 5.0, 0.0, 0.0])
    inside = F.gelu(torch.tensor(3.0 + 2 * 4.0 + 1)).item()
    out = adapter(torch.tensor([3.0, 4.0, 9.0, 9.0]))
    torch.testing.assert_close(out, torch.tensor([inside, 5.0, -inside, 2 * inside]))


def test_an_adapter_of_vit_b_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in Adapter(768).parameters()) == 295_872


@pytest.mark.parametrize("places", [{"space": True, "mlp": False}, {"space": False, "mlp": True}, {"depth": True}])
def test_adapters_start_at_nothing_and_move_the_encoder_when_trained(places):
    _, ours = pair(img_size=64)
    image = torch.rand(3, 3, 64, 64)
    stack = 3 if places.get("depth") else 1
    with torch.no_grad():
        before = ours(image)
        add_adapters(ours, **places)
        assert torch.equal(ours(image, stack=stack), before)
        wake_adapters(ours)
        assert not torch.allclose(ours(image, stack=stack), before, atol=1e-3)


def wake_adapters(encoder):
    for module in encoder.modules():
        if isinstance(module, Adapter):
            nn.init.normal_(module.up.weight, std=0.3)
            nn.init.normal_(module.up.bias, std=0.1)


def test_a_block_with_all_adapters_is_the_plain_reading():
    """After the attention with a skip; beside the MLP times a half; the same attention along depth without a skip."""
    torch.manual_seed(0)
    _, ours = pair(img_size=64, window=0)
    add_adapters(ours, depth=True)
    wake_adapters(ours)
    block, stack = ours.blocks[0], 3
    x = torch.randn(2 * stack, 4, 4, 48)
    with torch.no_grad():
        normed = block.norm1(x)
        attended = block.attn(normed)
        space = attended + block.space_adapter(attended)
        query, key, value = block.attn.qkv(normed).unflatten(-1, (3, 3, 16)).unbind(-3)  # [6, 4, 4, heads, 16]
        deep = torch.empty_like(x)
        for volume in range(2):
            rows = slice(volume * stack, (volume + 1) * stack)
            scores = torch.einsum("drchi,erchi->rchde", query[rows], key[rows]) / 4
            mixed = torch.einsum("rchde,erchi->drchi", scores.softmax(-1), value[rows])
            deep[rows] = block.attn.proj(mixed.flatten(-2))
        middle = x + space + block.depth_adapter(deep)
        normed = block.norm2(middle)
        expected = middle + block.mlp(normed) + 0.5 * block.mlp_adapter(normed)
        torch.testing.assert_close(block(x, stack), expected, rtol=0, atol=1e-5)


def test_along_depth_a_volume_does_not_see_another():
    _, ours = pair(img_size=64)
    add_adapters(ours, depth=True)
    wake_adapters(ours)
    image = torch.rand(6, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image, stack=3)[3:], ours(image[3:], stack=3), rtol=0, atol=1e-5)
        alone, among = ours(image[:1]), ours(image[:3], stack=3)[:1]
        assert not torch.allclose(alone, among, atol=1e-3)


@pytest.mark.parametrize(
    ("places", "words"), [({"space": False, "mlp": False}, "none of"), ({"ratio": 0.001}, "ratio")]
)
def test_adapters_that_would_be_nothing_are_refused(places, words):
    _, ours = pair(img_size=64)
    with pytest.raises(ValueError, match=words):
        add_adapters(ours, **places)


def test_frequency_prompts_of_vit_b_have_the_published_number_of_parameters():
    assert sum(p.numel() for p in FrequencyPrompts(768, 12, 16).parameters()) == 63_312


def test_frequency_prompts_start_at_nothing_and_move_the_encoder_when_trained():
    _, ours = pair(img_size=64)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = ours(image)
        ours.frequency = FrequencyPrompts(48, 2, 16, reduction=8)
        assert torch.equal(ours(image), before)
        nn.init.normal_(ours.frequency.up.weight)
        assert not torch.allclose(ours(image), before, atol=1e-3)


def test_each_block_gets_its_prompt_before_it():
    """Two blocks of identity: the tokens are patches, positions and both prompts."""
    _, ours = pair(img_size=64)
    ours.frequency = prompts = FrequencyPrompts(48, 2, 16, reduction=8)
    nn.init.normal_(prompts.up.weight)
    ours.blocks = nn.ModuleList([First(), First()])
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        patches = ours.patch_embed(image)
        fine = prompts.high(high_frequencies(image, 0.25)).permute(0, 2, 3, 1)
        features = fine + prompts.embedding(patches)
        tokens = patches + ours.pos_embed
        for block in prompts.blocks:
            tokens = tokens + prompts.up(F.gelu(block(features)))
        expected = ours.neck(tokens.permute(0, 3, 1, 2))
        torch.testing.assert_close(ours(image), expected, rtol=0, atol=1e-5)


class First(nn.Module):
    def forward(self, x, stack):
        return x


def test_a_constant_image_has_no_high_frequencies_and_a_checkerboard_keeps_itself():
    constant = torch.full((1, 1, 8, 8), 0.7)
    assert high_frequencies(constant, 0.25).abs().max() < 1e-6
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    torch.testing.assert_close(high_frequencies(board, 0.25), torch.ones_like(board))
    torch.testing.assert_close(high_frequencies(board, 0.0), torch.ones_like(board))


def test_a_quarter_of_the_area_is_removed():
    """Of 8 x 8 frequencies the middle 4 x 4 go: -2 to 1 in each direction. A wave of 2 periods stays on one side."""
    x = torch.arange(8) * (2 * torch.pi / 8)
    for periods, kept in ((0, 0.0), (1, 0.0), (2, 0.5), (3, 1.0)):
        wave = torch.cos(periods * x).expand(8, 8)
        spectrum = torch.fft.fft2(wave)
        left = torch.fft.ifft2(spectrum * _mask()).real.abs()
        torch.testing.assert_close(high_frequencies(wave[None, None], 0.25)[0, 0], left, atol=1e-5, rtol=0)
        torch.testing.assert_close(left.max(), torch.tensor(kept), atol=1e-5, rtol=0)


def _mask():
    """Return what stays, zero frequency first: all but -2, -1, 0 and 1 in both directions."""
    low = torch.tensor([1, 1, 0, 0, 0, 0, 1, 1], dtype=torch.bool)  # 0 1 2 3 -4 -3 -2 -1
    return ~(low[:, None] & low[None, :])


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_leaves_nothing_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        FrequencyPrompts(48, 2, 16, rate=rate)
