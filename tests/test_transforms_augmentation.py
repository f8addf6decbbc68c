"""Augmentation: images change, sides never do."""

import pytest
import torch
from monai.data import set_track_meta

from ragsam.transforms import augmentation

SIDE = 32


@pytest.fixture(autouse=True)
def plain_tensors():
    set_track_meta(False)
    yield
    set_track_meta(True)


def numbered():
    """A label in which every pixel carries its own number, from 1."""
    return torch.arange(1.0, SIDE * SIDE + 1).reshape(1, SIDE, SIDE)


def effective_map(label):
    """The affine map from output pixels to source pixels, fitted to a drawn `numbered` label: (matrix, residual)."""
    rows, columns = torch.nonzero(label[0], as_tuple=True)
    sources = label[0][rows, columns].double() - 1
    target = torch.stack([(sources / SIDE).floor(), sources % SIDE], dim=1)
    output = torch.stack([rows.double(), columns.double(), torch.ones(len(rows))], dim=1)
    solution = torch.linalg.lstsq(output, target).solution
    return solution[:2].T, (output @ solution - target).abs().max()


def test_no_draw_ever_mirrors():
    chain = augmentation().set_random_state(0)
    determinants, moved = [], 0
    for _ in range(200):
        label = chain({"image": torch.rand(3, SIDE, SIDE), "label": numbered()})["label"]
        matrix, residual = effective_map(label)
        assert residual < 1.5, "the map is no affine one"
        determinants.append(torch.det(matrix).item())
        assert matrix[0, 0] > 0.5
        assert matrix[1, 1] > 0.5
        moved += not torch.equal(label, numbered())
    assert min(determinants) > 0.4
    assert max(determinants) < 2
    assert moved > 150


def test_a_marker_keeps_its_side():
    """A bright bar on the left half, a dim one on the right: the left stays the brighter in 200 draws."""
    image = torch.zeros(3, SIDE, SIDE)
    image[:, 4:12, 8:24], image[:, 20:28, 8:24] = 1.0, 0.3
    label = torch.zeros(1, SIDE, SIDE)
    label[:, 4:12, 8:24], label[:, 20:28, 8:24] = 1, 2
    chain = augmentation().set_random_state(1)
    for _ in range(200):
        item = chain({"image": image, "label": label})
        assert item["image"][1, : SIDE // 2].sum() > item["image"][1, SIDE // 2 :].sum()
        rows = torch.arange(float(SIDE))[:, None].expand(SIDE, SIDE)
        left, right = (rows[item["label"][0] == organ].mean() for organ in (1, 2))
        assert left < right


def test_image_and_label_move_together():
    label = torch.zeros(1, SIDE, SIDE)
    label[:, 6:18, 10:26] = 3
    chain = augmentation(noise=0.0).set_random_state(2)
    for _ in range(50):
        item = chain({"image": (label > 0).float().expand(3, -1, -1).clone(), "label": label})
        # An intensity shift of up to 0.1 is among what is drawn.
        bright, marked = item["image"][0] > 0.5, item["label"][0] == 3
        dice = 2 * (bright & marked).sum() / (bright.sum() + marked.sum())
        assert dice > 0.9


def test_labels_keep_their_values_and_images_their_type():
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(0, 14, (1, SIDE, SIDE), generator=draw).float()
    chain = augmentation().set_random_state(3)
    for _ in range(30):
        item = chain({"image": torch.rand(3, SIDE, SIDE, generator=draw), "label": label})
        assert set(item["label"].unique().tolist()) <= set(range(14))
        assert torch.isfinite(item["image"]).all()
        assert item["image"].shape == (3, SIDE, SIDE)
        assert item["image"].dtype == torch.float32


def test_a_seed_repeats_its_draws():
    item = {"image": torch.rand(3, SIDE, SIDE), "label": numbered()}

    def drawn(seed):
        chain = augmentation().set_random_state(seed)
        return [chain(dict(item)) for _ in range(5)]

    first, second, other = drawn(7), drawn(7), drawn(8)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])
    assert not all(torch.equal(a["label"], b["label"]) for a, b in zip(first, other, strict=True))


def test_with_every_range_at_zero_nothing_but_shear_and_intensity_is_left():
    chain = augmentation(rotation_degrees=0.0, scale=0.0, shift_pixels=0.0).set_random_state(0)
    for _ in range(20):
        matrix, _ = effective_map(chain({"image": torch.rand(3, SIDE, SIDE), "label": numbered()})["label"])
        torch.testing.assert_close(matrix.diagonal(), torch.ones(2).double(), rtol=0, atol=0.05)


def test_the_ranges_are_kept():
    """Scale 0.1 and no rotation: sizes within 0.9-1.1, shifts of the middle within 3 pixels and what scale adds."""
    chain = augmentation(rotation_degrees=0.0, scale=0.1, shift_pixels=3.0).set_random_state(0)
    sizes = []
    for _ in range(100):
        matrix, _ = effective_map(chain({"image": torch.rand(3, SIDE, SIDE), "label": numbered()})["label"])
        sizes += matrix.diagonal().tolist()
    assert 0.88 < min(sizes) < 0.93
    assert 1.07 < max(sizes) < 1.12


OFF = {"affine": 0.0, "contrast": 0.0, "intensity": 0.0, "noise": 0.0}


def test_what_is_never_drawn_is_not_in_the_chain():
    assert len(augmentation().transforms) == 4
    assert augmentation(**OFF).transforms == ()
    assert len(augmentation(elastic=0.2, low_resolution=0.2, mirror=True).transforms) == 7


def test_what_is_added_leaves_the_draws_of_the_others_alone():
    """The last three stand behind: with each of them drawn hardly ever, the chain is the plain one's."""
    plain = augmentation().set_random_state(0)
    more = augmentation(elastic=1e-12, low_resolution=1e-12).set_random_state(0)
    for _ in range(10):
        item = {"image": torch.rand(3, SIDE, SIDE), "label": numbered()}
        a, b = plain(dict(item)), more(dict(item))
        torch.testing.assert_close(a["image"], b["image"], atol=1e-4, rtol=0)
        assert torch.equal(a["label"], b["label"])


@pytest.mark.parametrize(("name", "moves"), [("elastic", True), ("low_resolution", False), ("contrast", False)])
def test_each_is_drawn_alone_and_as_often_as_asked(name, moves):
    chain = augmentation(**{**OFF, name: 0.5}).set_random_state(0)
    image, label = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), numbered()
    changed = 0
    for _ in range(200):
        item = chain({"image": image, "label": label})
        assert item["image"].shape == image.shape
        altered = not torch.allclose(item["image"], image, atol=1e-3)
        assert torch.equal(item["label"], label) != (altered and moves)
        changed += altered
    assert 0.4 < changed / 200 < 0.6


def test_an_elastic_draw_moves_image_and_label_together_and_not_far():
    label = torch.zeros(1, SIDE, SIDE)
    label[:, 6:18, 10:26] = 3
    chain = augmentation(**{**OFF, "elastic": 1.0}).set_random_state(2)
    for _ in range(50):
        item = chain({"image": (label > 0).float().expand(3, -1, -1).clone(), "label": label})
        bright, marked = item["image"][0] > 0.5, item["label"][0] == 3
        assert 2 * (bright & marked).sum() / (bright.sum() + marked.sum()) > 0.9
        assert 2 * (marked & (label[0] == 3)).sum() / (marked.sum() + (label[0] == 3).sum()) > 0.7


def test_a_lowered_resolution_loses_detail_and_keeps_the_mean():
    chain = augmentation(**{**OFF, "low_resolution": 1.0}).set_random_state(0)
    image = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    draws = [chain({"image": image, "label": numbered()})["image"] for _ in range(30)]
    assert min(draw.std() for draw in draws) < 0.8 * image.std()
    assert all(abs(draw.mean() - image.mean()) < 0.05 for draw in draws)
