"""Descriptors: unit vectors, equal for equal slices, apart for far heights."""

import pytest
import torch

from ragsam.retrieval.descriptors import CENTRED_HEIGHT_WEIGHT, DESCRIPTORS, HEIGHT_WEIGHT, centred


def describe(name, image, height, embedding=None):
    if embedding is None:
        embedding = torch.randn(len(image), 8, 4, 4, generator=torch.Generator().manual_seed(5))
    return DESCRIPTORS[name].describe(image, embedding, torch.tensor(height))


@pytest.fixture
def image():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptors_have_unit_length(name, image):
    vectors = describe(name, image, [0.0, 0.3, 1.0])
    assert vectors.ndim == 2
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_even_slice_has_a_descriptor_too(name, value):
    vectors = describe(name, torch.full((1, 3, 32, 32), value), [0.4], torch.full((1, 8, 4, 4), value))
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_equal_slices_at_equal_heights_have_cosine_one(name, image):
    embedding = torch.randn(1, 8, 4, 4)
    first, second = (describe(name, image[:1], [0.3], embedding) for _ in range(2))
    assert (first @ second.T).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_the_cosine_falls_with_the_difference_in_height_as_worked_out(name, image):
    """Content agrees, heights are an arc of 180 degrees: (1 + w^2 cos(pi d)) / (1 + w^2)."""
    embedding, weight = torch.randn(1, 8, 4, 4), CENTRED_HEIGHT_WEIGHT if name == "centred" else HEIGHT_WEIGHT
    start = describe(name, image[:1], [0.0], embedding)
    for height, arc in ((0.25, 0.5**0.5), (0.5, 0.0), (1.0, -1.0)):
        cosine = (start @ describe(name, image[:1], [height], embedding).T).item()
        assert cosine == pytest.approx((1 + weight**2 * arc) / (1 + weight**2), abs=1e-5)


def test_the_thumbnail_looks_at_the_middle_channel_whatever_its_brightness(image):
    other = image.clone()
    other[:, [0, 2]] = 0.0
    other[:, 1] = other[:, 1] * 0.5 + 0.1
    torch.testing.assert_close(describe("thumbnail", image, [0.1] * 3), describe("thumbnail", other, [0.1] * 3))
    other[:, 1] = other[:, 1].flip(-1)
    assert not torch.allclose(describe("thumbnail", image, [0.1] * 3), describe("thumbnail", other, [0.1] * 3))


@pytest.mark.parametrize("side", [8, 16, 40])
def test_any_slice_size_is_described(side):
    assert describe("thumbnail", torch.rand(2, 3, side, side), [0.0, 1.0]).shape == (2, 16 * 16 + 2)


def test_the_embedding_descriptor_needs_an_embedding(image):
    assert DESCRIPTORS["embedding"].needs_embedding
    assert not DESCRIPTORS["thumbnail"].needs_embedding
    with pytest.raises(ValueError, match="no embedding was given"):
        DESCRIPTORS["embedding"].describe(image, None, torch.zeros(3))


def test_centring_moves_the_brightness_to_the_middle():
    """A dot at row 1, column 6 of 8 lies 2 rows above and 3 columns right of the middle, 3.5, to whole pixels."""
    slices = torch.zeros(2, 8, 8)
    slices[0, 1, 6] = 1.0
    moved = centred(slices)
    assert moved[0].nonzero().tolist() in ([[3, 4]], [[3, 3]], [[4, 4]], [[4, 3]])
    assert moved.sum() == 1.0
    assert not moved[1].any()


def test_the_centred_descriptor_does_not_mind_where_the_body_lies(image):
    small = torch.zeros(1, 3, 32, 32)
    small[..., 4:16, 6:20] = image[:1, :, 4:16, 6:20]
    other = small.roll((8, 5), (2, 3))
    torch.testing.assert_close(describe("centred", small, [0.2]), describe("centred", other, [0.2]))
    assert not torch.allclose(describe("thumbnail", small, [0.2]), describe("thumbnail", other, [0.2]))
