"""The detail branch: its strides, its zero start, and the patch sizes that it can follow."""

import pytest
import torch

from ragsam.networks import Segmenter
from ragsam.networks.detail import FULL_CHANNELS, STEM_CHANNELS, DetailDecoder, DetailStem, StemPatchEmbed


@pytest.fixture
def stem():
    torch.manual_seed(0)
    return DetailStem()(torch.rand(1, 3, 32, 32))


def test_the_stem_gives_features_at_three_strides(stem):
    assert {stride: tuple(x.shape) for stride, x in stem.items()} == {
        1: (1, 16, 32, 32),
        2: (1, 48, 16, 16),
        4: (1, 96, 8, 8),
    }


@pytest.mark.parametrize("patch_size", [4, 8, 16])
def test_the_patch_embedding_is_in_sams_layout(stem, patch_size):
    embedded = StemPatchEmbed(patch_size, 24)(stem[4])
    assert embedded.shape == (1, 32 // patch_size, 32 // patch_size, 24)


@pytest.mark.parametrize(("patch_size", "strides"), [(4, {2, 1}), (8, {4, 2, 1}), (16, {4, 2, 1}), (32, {4, 2, 1})])
def test_a_skip_enters_at_every_stride_that_the_stem_has(patch_size, strides):
    decoder = DetailDecoder(64, patch_size, 3, zero_init=False)
    assert {int(stride) for stride in decoder.skips} == strides <= set(STEM_CHANNELS)


@pytest.mark.parametrize("patch_size", [4, 8, 16, 32])
def test_features_reach_full_resolution(stem, patch_size):
    decoder = DetailDecoder(64, patch_size, 3, zero_init=False)
    side = 32 * 4 // patch_size
    features = decoder.to_full_resolution(torch.randn(1, 8, side, side), stem)
    assert decoder.finish(features).shape == (1, 8, 32, 32)


def test_with_zero_init_skips_into_sams_decoder_and_the_gate_are_nothing(stem):
    decoder = DetailDecoder(64, 16, 3, zero_init=True)
    x = torch.randn(1, 8, 8, 8)
    assert torch.equal(decoder.skip(x, stem, 4), x)
    assert torch.equal(decoder.skip(x, stem, 8), x)  # the stem has no stride 8
    assert not decoder.finish(decoder.to_full_resolution(x, stem)).any()


def test_without_zero_init_the_gate_passes_its_input(stem):
    decoder = DetailDecoder(64, 8, 3, zero_init=False)
    x = torch.randn(1, FULL_CHANNELS, 32, 32)
    expected = x + decoder.block(x)
    torch.testing.assert_close(decoder.finish(x), expected[:, :8])  # 64 / 8 channels, the first of the sixteen
    assert not torch.equal(decoder.skip(torch.zeros(1, 16, 8, 8), stem, 4), torch.zeros(1, 16, 8, 8))


def test_from_scratch_organs_start_a_hundred_times_rarer_than_background_and_on_base_weights_as_they_are():
    prior = DetailDecoder(64, 8, 4, zero_init=False).prior
    torch.testing.assert_close(prior.exp().detach(), torch.tensor([1.0, 0.01, 0.01, 0.01]))
    assert DetailDecoder(64, 8, 4, zero_init=True).prior is None
    torch.manual_seed(0)
    network = Segmenter(2, image_size=32, fusion=None).eval()
    image, moved = torch.rand(1, 3, 32, 32), torch.tensor([0.0, 1.0, -2.0])
    before = network(image)
    with torch.no_grad():
        network.detail.prior += moved
    torch.testing.assert_close(network(image), before + moved[:, None, None])


@pytest.mark.parametrize("patch_size", [1, 2, 6, 12, 14, 20])
def test_patch_sizes_that_doubling_does_not_reach_are_refused(patch_size):
    with pytest.raises(ValueError, match=f"patch_size {patch_size} "):
        DetailDecoder(64, patch_size, 3, zero_init=True)


def test_a_patch_embedding_that_4_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="patch_size 6 is not a multiple of 4"):
        StemPatchEmbed(6, 24)
